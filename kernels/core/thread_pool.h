// A small fork-join pool: one per rank. Results never depend on which thread ran a task, nor on how
// many there are.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace sluice::kernels {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // including the caller of ParallelFor; at least 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task) once for each task in [0, num_tasks), on any thread, in any order; returns
  // when all are done. Tasks are claimed one at a time, lowest first. Allocates nothing. May be
  // called from several threads: while the pool is busy, and from inside a task, the caller runs
  // its tasks alone.
  template <typename Body>
  void ParallelFor(int64_t num_tasks, const Body& body) {
    Run(
        num_tasks,
        [](const void* context, int64_t task) { (*static_cast<const Body*>(context))(task); },
        &body);
  }

  // Cuts [0, n) into contiguous ranges of at least `grain` and calls body(begin, end) for each. For
  // loops whose elements are independent; the cut depends on the number of threads, so bodies must
  // not sum across elements.
  template <typename Body>
  void ParallelRanges(int64_t n, int64_t grain, const Body& body) {
    if (n <= 0) return;
    const int64_t most = (n + grain - 1) / grain;
    const int64_t pieces =
        num_threads() == 1 ? 1 : (most < 4 * num_threads() ? most : 4 * num_threads());
    ParallelFor(pieces, [&](int64_t i) {
      const int64_t begin = n * i / pieces, end = n * (i + 1) / pieces;
      if (begin < end) body(begin, end);
    });
  }

 private:
  using TaskFunction = void (*)(const void* context, int64_t task);
  void Run(int64_t num_tasks, TaskFunction function, const void* context);
  void WorkerLoop();
  void ClaimTasks();

  std::vector<std::thread> workers_;
  std::mutex region_mutex_;  // held for the whole of one parallel region
  std::mutex mutex_;         // guards sleeping and waking
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> workers_inside_{0};
  std::atomic<int64_t> next_task_{0};
  std::atomic<bool> stop_{false};
  int64_t num_tasks_ = 0;
  TaskFunction function_ = nullptr;
  const void* context_ = nullptr;
};

}  // namespace sluice::kernels
