#include "kernels/core/cpu_stream.h"

#include "kernels/core/check.h"

namespace sluice::kernels {

CpuStream::CpuStream(CpuStreamMode mode, ThreadPool& pool) : mode_(mode), pool_(pool) {
  if (mode_ == CpuStreamMode::kThreaded) worker_ = std::thread([this] { WorkerLoop(); });
}

CpuStream::~CpuStream() {
  if (mode_ != CpuStreamMode::kThreaded) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  worker_.join();
}

CpuStream& CpuStream::From(Stream& stream) {
  CHECK(stream.device().type == DeviceType::kCpu) << "this stream belongs to another device";
  return static_cast<CpuStream&>(stream);
}

void CpuStream::Record(Event& event) {
  auto& cpu_event = static_cast<CpuEvent&>(event);
  uint64_t ticket = 0;
  {
    std::lock_guard<std::mutex> lock(cpu_event.mutex_);
    ticket = ++cpu_event.recorded_;
  }
  Run([&cpu_event, ticket](ThreadPool&) {
    std::lock_guard<std::mutex> lock(cpu_event.mutex_);
    if (cpu_event.completed_ < ticket) cpu_event.completed_ = ticket;
    cpu_event.changed_.notify_all();
  });
}

void CpuStream::Wait(const Event& event) {
  const auto& cpu_event = static_cast<const CpuEvent&>(event);
  uint64_t ticket = 0;
  {
    std::lock_guard<std::mutex> lock(cpu_event.mutex_);
    ticket = cpu_event.recorded_;
  }
  Run([&cpu_event, ticket](ThreadPool&) {
    std::unique_lock<std::mutex> lock(cpu_event.mutex_);
    cpu_event.changed_.wait(lock, [&] { return cpu_event.completed_ >= ticket; });
  });
}

absl::Status CpuStream::Synchronize() {
  if (mode_ != CpuStreamMode::kThreaded) return absl::OkStatus();
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return queue_.empty() && !busy_; });
  return absl::OkStatus();
}

void CpuStream::Enqueue(std::function<void()> work) {
  if (mode_ == CpuStreamMode::kSkipped) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(work));
  }
  changed_.notify_all();
}

void CpuStream::WorkerLoop() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::function<void()> work = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    work();
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace sluice::kernels
