// The CPU's stream. Inline: work runs at once in the caller. Threaded: a worker thread runs it, so
// that a forgotten Wait is a data race that ThreadSanitizer reports on a laptop.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/core/stream.h"
#include "kernels/core/thread_pool.h"

namespace sluice::kernels {

// kSkipped: nothing runs, for a caller who only wants to know what memory a step takes.
enum class CpuStreamMode : uint8_t { kInline, kThreaded, kSkipped };

class CpuEvent : public Event {
 private:
  friend class CpuStream;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  uint64_t recorded_ = 0;   // how often Record was enqueued
  uint64_t completed_ = 0;  // the newest of those that the stream has reached
};

class CpuStream : public Stream {
 public:
  CpuStream(CpuStreamMode mode, ThreadPool& pool);
  ~CpuStream() override;

  // The stream as a CpuStream; CHECKs that it belongs to the CPU.
  static CpuStream& From(Stream& stream);

  DeviceId device() const override { return {}; }
  void Record(Event& event) override;
  void Wait(const Event& event) override;
  absl::Status Synchronize() override;

  ThreadPool& pool() { return pool_; }

  // Enqueues work(pool). Inline streams run it before returning and copy nothing.
  template <typename Work>
  void Run(Work&& work) {
    if (mode_ == CpuStreamMode::kInline) {
      work(pool_);
    } else {
      Enqueue([work = std::forward<Work>(work), this]() mutable { work(pool_); });
    }
  }

 private:
  void Enqueue(std::function<void()> work);
  void WorkerLoop();

  const CpuStreamMode mode_;
  ThreadPool& pool_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool busy_ = false, stop_ = false;
  std::thread worker_;
};

}  // namespace sluice::kernels
