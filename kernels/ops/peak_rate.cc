#include "kernels/ops/peak_rate.h"

#include <atomic>
#include <chrono>

#include "kernels/core/status_macros.h"
#include "kernels/cpu/peak_loop.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Launches that double until one takes half the time: that one counts.
absl::StatusOr<double> MeasureCuda(Stream& stream, DType dtype, double seconds) {
  if constexpr (kWithCuda) {
    for (int64_t iterations = 1;; iterations *= 2) {
      RETURN_IF_ERROR(stream.Synchronize());
      const auto start = Clock::now();
      const double operations = cuda::RunPeakLoop(stream, dtype, iterations);
      RETURN_IF_ERROR(stream.Synchronize());
      const double taken = SecondsSince(start);
      if (taken >= seconds / 2) return operations / taken;
    }
  }
  return 0.0;
}

}  // namespace

absl::StatusOr<double> MeasurePeakRate(Stream& stream, DType dtype, double seconds) {
  if (IsOnCuda(stream)) return MeasureCuda(stream, dtype, seconds);
  double rate = 0;
  CpuStream::From(stream).Run([&](ThreadPool& pool) {
    std::atomic<int64_t> operations{0};
    const auto start = Clock::now();
    pool.ParallelFor(pool.num_threads(), [&](int64_t) {
      while (SecondsSince(start) < seconds) operations += cpu::RunPeakLoop(dtype, 10000);
    });
    rate = static_cast<double>(operations) / SecondsSince(start);
  });
  RETURN_IF_ERROR(stream.Synchronize());
  return rate;
}

}  // namespace sluice::kernels
