#include "kernels/ops/peak_rate.h"

#include <atomic>
#include <chrono>

#include "kernels/core/cpu_stream.h"
#include "kernels/core/status_macros.h"
#include "kernels/cpu/peak_loop.h"

namespace sluice::kernels {

absl::StatusOr<double> MeasurePeakRate(Stream& stream, DType dtype, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  double rate = 0;
  CpuStream::From(stream).Run([&](ThreadPool& pool) {
    std::atomic<int64_t> operations{0};
    const auto start = Clock::now();
    pool.ParallelFor(pool.num_threads(), [&](int64_t) {
      while (since(start) < seconds) operations += cpu::RunPeakLoop(dtype, 10000);
    });
    rate = static_cast<double>(operations) / since(start);
  });
  RETURN_IF_ERROR(stream.Synchronize());
  return rate;
}

}  // namespace sluice::kernels
