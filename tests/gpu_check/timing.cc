#include "tests/gpu_check/timing.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "tests/gpu_check/gpu_check.h"

namespace sluice::testing {
namespace {

using kernels::BFloat16;
using kernels::DType;
using kernels::SizeOf;
constexpr double kBytesPerSecond = 3.35e12;

void FillWithNumbers(const Tensor& tensor) {
  uint64_t state = 0x9e3779b97f4a7c15u;
  const auto next = [&state] {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  };
  const int64_t n = std::min<int64_t>(tensor.num_elements(), 1 << 20);  // of which the rest repeats
  if (tensor.dtype() == DType::kE4M3) {
    auto* codes = static_cast<uint8_t*>(tensor.view().raw_mutable_data());
    for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(0x38 | (next() >> 40 & 0x87));
  } else if (tensor.dtype() == DType::kBF16) {
    auto* values = tensor.view().mutable_data<BFloat16>();
    for (int64_t i = 0; i < n; ++i) {
      values[i].bits = static_cast<uint16_t>(0x3f80 | (next() >> 40 & 0x807f));
    }
  } else {
    std::fill_n(tensor.view().mutable_data<float>(), n, 1.0f);
  }
  auto* bytes = static_cast<char*>(tensor.view().raw_mutable_data());
  const size_t all = tensor.view().bytes();
  for (size_t done = static_cast<size_t>(n) * SizeOf(tensor.dtype()); done < all;) {
    const size_t next = std::min(done, all - done);
    std::memcpy(bytes + done, bytes, next);
    done += next;
  }
}

}  // namespace

Tensor Numbers(const kernels::Shape& shape, kernels::DType dtype) {
  const Tensor tensor(shape, dtype);
  FillWithNumbers(tensor);
  return tensor;
}

// The work alone; its launches are few and asynchronous, so the host's clock will do.
void SpeedTest::Report(const std::string& name, double flops, double bytes, double peak_flops,
                       const std::function<void()>& work) {
  work();
  Wait();
  if (testing::IsSoftwareDevice()) {
    std::printf("%-32s ran; a software device has no speed\n", name.c_str());
    return;
  }
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 5, kRuns = 10;
  double best = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    for (int run = 0; run < kRuns; ++run) work();
    Wait();
    const std::chrono::duration<double> taken = Clock::now() - start;
    best = std::min(best, taken.count() / kRuns);
  }
  const double floor = std::max(flops / peak_flops, bytes / kBytesPerSecond);
  const bool only_moves = flops == 0;
  std::printf("%-32s %9.1f us  %7.1f %s  floor %9.1f us (%.0f%% of it)\n", name.c_str(), best * 1e6,
              only_moves ? bytes / best * 1e-9 : flops / best * 1e-12,
              only_moves ? "GB/s   " : "TFLOP/s", floor * 1e6, 100 * floor / best);
}

}  // namespace sluice::testing
