#include "kernels/core/thread_pool.h"

#include "kernels/core/check.h"

namespace sluice::kernels {
namespace {

// How often a worker looks for a new region before it sleeps: about 20 microseconds, the gap
// between two ops of a step.
constexpr int kSpins = 2000;

inline void SpinPause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

thread_local bool inside_region = false;

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  CHECK_GE(num_threads, 1);
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { WorkerLoop(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ClaimTasks() {
  inside_region = true;
  for (;;) {
    const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= num_tasks_) break;
    function_(context_, task);
  }
  inside_region = false;
}

void ThreadPool::Run(int64_t num_tasks, TaskFunction function, const void* context) {
  std::unique_lock<std::mutex> region(region_mutex_, std::defer_lock);
  if (workers_.empty() || num_tasks <= 1 || inside_region || !region.try_lock()) {
    for (int64_t task = 0; task < num_tasks; ++task) function(context, task);
    return;
  }
  num_tasks_ = num_tasks;
  function_ = function;
  context_ = context;
  next_task_.store(0, std::memory_order_relaxed);
  workers_inside_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  ClaimTasks();
  for (int spin = 0; workers_inside_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) {
      SpinPause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::WorkerLoop() {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (generation_.load(std::memory_order_acquire) != seen) break;
      SpinPause();
    }
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    ClaimTasks();
    workers_inside_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace sluice::kernels
