// The two ways to multiply E4M3 codes, mma.sync (kernels/cuda/fp8_matmul.cu) and wgmma
// (hopper_matmul.cuh), give the same bits where the tensor cores add exactly, and the CPU's where
// every sum is exact. As an H100 adds, each loses bits of its own, within a bound.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/cpu/target.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/hopper_ops.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/reference/fp8_matmul.h"
#include "tests/cuda/add_like.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels::cuda {
namespace {

using testing::Tensor;

constexpr int64_t kM = 67, kN = 136, kK = 384;

// Codes of any magnitude from 2^-9 to `most`, either sign.
Tensor Codes(const Shape& shape, uint64_t seed, int most_code) {
  const Tensor bits = Tensor::RandomIntegers(shape, DType::kI32, seed, -most_code, most_code);
  const Tensor codes(shape, DType::kE4M3);
  for (int64_t i = 0; i < bits.num_elements(); ++i) {
    const int b = static_cast<int>(bits.At(i));
    codes.SetAt(i, ToFloat(E4M3{static_cast<uint8_t>(b < 0 ? 0x80 | -b : b)}));
  }
  return codes;
}

Tensor Swapped(const Tensor& t, int64_t rows, int64_t columns, const Shape& shape) {
  const Tensor swapped(shape, t.dtype());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) swapped.SetAt(c * rows + r, t.At(r * columns + c));
  }
  return swapped;
}

// The same memory, managed, as the CPU's.
TensorView OnCpu(const Tensor& t) {
  return TensorView(t.view().raw_mutable_data(), t.dtype(), t.shape());
}

class Fp8AgreementTest : public testing::EveryDevice {
 protected:
  void TearDown() override {
    AddLike(-1);
    EveryDevice::TearDown();
  }

  QuantizedWeight Weight() const {
    return {w, w_scales, w_transposed, w_scales_transposed, ConstTensorView()};
  }
  Fp8MatmulArgs Args(const Tensor& result) const {
    return {{a, a_scales}, Weight(), Fp8Direction::kForward, {}, result};
  }
  Tensor ByMma() {
    const Tensor c({kM, kN});
    CudaStream mma(stream().device(), {.only_mma_sync = true});
    Fp8Matmul(mma, Args(c));
    EXPECT_TRUE(mma.Synchronize().ok());
    return c;
  }
  Tensor ByWgmma() {
    const Tensor c({kM, kN});
    EXPECT_TRUE(Fp8MatmulByWgmma(stream(), Args(c)));
    Wait();
    return c;
  }
  void Fill(int most_code) {
    a = Codes({kM, kK}, 1, most_code);
    w = Codes({1, kN, kK}, 2, most_code);
    w_transposed = Swapped(w, kN, kK, {1, kK, kN});
    a_scales = Tensor::Random({kM, 3}, DType::kF32, 3, 0.25, 2.0);
    w_scales = Tensor::Random({1, 2, 3}, DType::kF32, 4, 0.25, 2.0);
    w_scales_transposed = Swapped(w_scales, 2, 3, {1, 3, 2});
  }

  Tensor a, w, w_transposed, a_scales, w_scales, w_scales_transposed;
};
INSTANTIATE_TEST_SUITE_P(Devices, Fp8AgreementTest,
                         ::testing::Values(testing::AllDevices().front()),
                         [](const auto& info) { return info.param.name; });

// Where sums are exact. An H100's two instructions keep different numbers of bits.
TEST_P(Fp8AgreementTest, BothInstructionsGiveTheSameBitsOfExactSums) {
  Fill(0x7e);
  if (!AddLike(0)) GTEST_SKIP() << "a real GPU adds its own way";
  const Tensor exact = ByMma();
  EXPECT_TRUE(testing::Same(ByWgmma(), exact));
  AddLike(1);
  const Tensor by_mma = ByMma(), by_wgmma = ByWgmma();
  EXPECT_FALSE(testing::Same(by_mma, exact));
  EXPECT_FALSE(testing::Same(by_wgmma, exact));
  EXPECT_FALSE(testing::Same(by_wgmma, by_mma));
}

// Gate and up, each of a height that is no multiple of 128: forward its rows, backward K.
TEST_P(Fp8AgreementTest, SoTheyDoWhereAWeightIsEqualParts) {
  if (!AddLike(0)) GTEST_SKIP() << "a real GPU adds its own way";
  constexpr int64_t kRows = 70, kIn = 144, kOut = 2 * 208;
  const Tensor tiles = Tensor::Of({0, 128, 208, 336, 416}, DType::kI32, {5});
  const Tensor offsets = Tensor::Of({0, 5, 70}, DType::kI32, {3});
  for (const int64_t experts : {1, 2}) {
    const Tensor codes = Codes({experts, kOut, kIn}, 1, 0x7e);
    const Tensor transposed = Codes({experts, kIn, kOut}, 2, 0x7e);
    const Tensor scales_of_codes = Tensor::Random({experts, 4, 2}, DType::kF32, 3, 0.25, 2.0);
    const Tensor scales_transposed = Tensor::Random({experts, 2, 4}, DType::kF32, 4, 0.25, 2.0);
    const QuantizedWeight weight = {codes, scales_of_codes,  transposed, scales_transposed,
                                    tiles, /*equal_parts=*/2};
    for (const Fp8Direction direction : {Fp8Direction::kForward, Fp8Direction::kBackward}) {
      const bool is_forward = direction == Fp8Direction::kForward;
      const int64_t k = is_forward ? kIn : kOut, n = is_forward ? kOut : kIn;
      const Tensor rows = Codes({kRows, k}, 5, 0x7e);
      const Tensor scales = Tensor::Random({kRows, is_forward ? 2 : 4}, DType::kF32, 6, 0.25, 2.0);
      const Tensor wanted({kRows, n}, DType::kBF16), found({kRows, n}, DType::kBF16);
      Fp8MatmulArgs args = {{rows, scales}, weight, direction, {}, wanted};
      if (experts > 1) args.offsets = offsets;
      CudaStream mma(stream().device(), {.only_mma_sync = true});
      Fp8Matmul(mma, args);
      ASSERT_TRUE(mma.Synchronize().ok());
      args.c = found;
      EXPECT_TRUE(Fp8MatmulByWgmma(stream(), args));
      Wait();
      EXPECT_TRUE(testing::Same(found, wanted)) << experts << " " << is_forward;
    }
  }
}

// An instruction adds 32 products to the sum of a tile, of which there are four: each of the 33
// terms loses less than 2^-13 of the largest, which no term nor sum is above, if a subnormal
// operand counts as 2^-6; so does the result. What a real GPU adds is within this bound too.
TEST_P(Fp8AgreementTest, SumsOfAnH100AreWithinTheirBound) {
  Fill(0x7e);
  AddLike(1);
  const Tensor expected({kM, kN}), magnitude({kM, kN});
  reference::Fp8Matmul(Args(expected));
  const auto absolute = [](const Tensor& t) {
    const Tensor to = t.Clone();
    for (int64_t i = 0; i < t.num_elements(); ++i) {
      to.SetAt(i, std::max(std::abs(t.At(i)), 0x1p-6));
    }
    return to;
  };
  const Tensor found = ByWgmma();
  a = absolute(a), w = absolute(w), w_transposed = absolute(w_transposed);
  reference::Fp8Matmul(Args(magnitude));
  EXPECT_TRUE(testing::Near(found, expected,
                            {.magnitude = &magnitude, .magnitude_factor = 4 * 34 * 0x1p-13}));
}

// Codes up to 0x13 are multiples of 2^-9 below 2^-4: a tile's products are multiples of 2^-18 and
// add up to less than 2^-1, so every order gives the exact sum, and promotion is the same formula
// (but for the scalar target, whose multiply-add rounds twice).
TEST_P(Fp8AgreementTest, ExactSumsHaveTheBitsOfTheCpu) {
  Fill(0x13);
  const Tensor found = ByMma();
  if (cpu::AvailableTargets().size() < 2) GTEST_SKIP() << "no fused multiply-add here";
  cpu::SelectTarget(cpu::AvailableTargets().back());
  auto cpu = DeviceContext::Create({.type = DeviceType::kCpu});
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  const Tensor wanted({kM, kN});
  Stream& cpu_stream = (*cpu)->stream(StreamRole::kCompute);
  const QuantizedWeight weight = {OnCpu(w), OnCpu(w_scales), OnCpu(w_transposed),
                                  OnCpu(w_scales_transposed), ConstTensorView()};
  Fp8Matmul(cpu_stream,
            {{OnCpu(a), OnCpu(a_scales)}, weight, Fp8Direction::kForward, {}, OnCpu(wanted)});
  ASSERT_TRUE(cpu_stream.Synchronize().ok());
  EXPECT_TRUE(testing::Same(found, wanted));
}

}  // namespace
}  // namespace sluice::kernels::cuda
