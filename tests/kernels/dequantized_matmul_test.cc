// Products with weights that stay in E4M3 blocks, on every target: against the scalar reference,
// and to the bit those of the weight written out.
#include "kernels/ops/dequantized_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/reference/dequantized_matmul.h"
#include "tests/kernels/matmul_testing.h"
#include "tests/support/near.h"

namespace sluice::kernels {
namespace {

using testing::kF32Rounding;
using testing::Near;
using testing::Same;
using testing::Tensor;

Tensor Int32s(const std::vector<int>& values) {
  const Tensor tensor({static_cast<int64_t>(values.size())}, DType::kI32);
  for (size_t i = 0; i < values.size(); ++i) tensor.SetAt(static_cast<int64_t>(i), values[i]);
  return tensor;
}

// Any codes but NaN; scales that are no powers of two and differ from block to block.
struct Blocks {
  Blocks(int64_t experts, const std::vector<int>& bounds, int64_t in)
      : codes({experts, bounds.back(), in}, DType::kE4M3),
        magnitudes(codes.shape(), DType::kE4M3),
        scales(Tensor::Random({experts, static_cast<int64_t>(bounds.size()) - 1, NumTiles(in)},
                              DType::kF32, 2, 0.25, 2.0)),
        tiles(Int32s(bounds)) {
    const Tensor bits = Tensor::RandomIntegers(codes.shape(), DType::kU8, 1, 0, 255);
    for (int64_t i = 0; i < bits.num_elements(); ++i) {
      const auto b = static_cast<uint8_t>(bits.At(i));
      const float value = ToFloat(E4M3{(b & 0x7f) == 0x7f ? uint8_t{0x12} : b});
      codes.SetAt(i, value);
      magnitudes.SetAt(i, std::abs(value));
    }
  }
  QuantizedWeight View() const { return {codes, scales, {}, {}, tiles}; }
  QuantizedWeight Magnitude() const { return {magnitudes, scales, {}, {}, tiles}; }
  Tensor codes, magnitudes, scales, tiles;
};

Tensor Magnitudes(const Tensor& t) {
  const Tensor absolute({t.shape()[0], t.shape()[1]}, t.dtype());
  for (int64_t i = 0; i < t.num_elements(); ++i) absolute.SetAt(i, std::abs(t.At(i)));
  return absolute;
}

struct Case {
  std::vector<int> row_tiles;
  int64_t in;
  std::vector<int> offsets;
};

TEST(DequantizedMatmul, BothDirectionsAgreeWithTheReference) {
  const Case cases[] = {{{0, 16}, 16, {0, 1}},
                        {{0, 96, 176}, 48, {0, 13}},
                        {{0, 128, 192}, 272, {0, 7, 7, 37}},
                        {{0, 5, 12}, 131, {0, 5}}};
  TestDevice device(2);
  ForEachTarget([&] {
    for (const Case& p : cases) {
      const int64_t rows = p.offsets.back(), experts = static_cast<int64_t>(p.offsets.size()) - 1;
      const Blocks weight(experts, p.row_tiles, p.in);
      const Tensor offsets = Int32s(p.offsets);
      for (const bool forward : {true, false}) {
        const int64_t k = forward ? p.in : p.row_tiles.back();
        const int64_t n = forward ? p.row_tiles.back() : p.in;
        for (const DType dtype : {DType::kF32, DType::kBF16}) {
          const Tensor a = Tensor::Random({rows, k}, dtype, 3, -1, 1, 3);
          const Tensor c({rows, n}, dtype, 2), expected({rows, n}), magnitude({rows, n});
          DequantizedMatmulArgs args{a, weight.View(),
                                     forward ? Fp8Direction::kForward : Fp8Direction::kBackward,
                                     offsets, c};
          if (experts == 1) args.offsets = ConstTensorView();
          DequantizedMatmul(device.stream(), args);
          ASSERT_TRUE(device.stream().Synchronize().ok());
          args.c = expected;
          reference::DequantizedMatmul(args);
          const Tensor absolute = Magnitudes(a);
          reference::DequantizedMatmul(
              {absolute, weight.Magnitude(), args.direction, args.offsets, magnitude});
          // Two roundings at most for each product of the sum, and the result's own.
          ASSERT_TRUE(Near(c, expected,
                           {.relative = testing::OneUlp(dtype),
                            .magnitude = &magnitude,
                            .magnitude_factor = static_cast<double>(2 * k + 2) * kF32Rounding}))
              << rows << " x " << k << " x " << n << " " << NameOf(dtype).data();
          ASSERT_TRUE(c.PaddingIsUntouched());
        }
      }
    }
  });
}

// More than one part of the weight in either direction, and a block that the second part starts in.
TEST(DequantizedMatmul, GivesTheBitsOfTheWeightWrittenOut) {
  const Blocks weight(1, {0, 128, 192, 320, 448, 576, 704, 832, 960, 1088, 1216, 1344}, 1040);
  TestDevice device(2);
  ForEachTarget([&] {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor values(weight.codes.shape(), dtype);
      DequantizeWeight(device.stream(), {.weight = weight.View(), .w = values});
      for (const bool forward : {true, false}) {
        const int64_t k = forward ? 1040 : 1344, n = forward ? 1344 : 1040;
        const Tensor a = Tensor::Random({3, k}, dtype, 5);
        const Tensor c({3, n}, dtype), whole({3, n}, dtype);
        DequantizedMatmul(
            device.stream(),
            {a, weight.View(), forward ? Fp8Direction::kForward : Fp8Direction::kBackward, {}, c});
        Matmul(
            device.stream(),
            {.a = a, .b = values.view().Reshape({1344, 1040}), .c = whole, .transpose_b = forward});
        ASSERT_TRUE(device.stream().Synchronize().ok());
        EXPECT_TRUE(Same(c, whole)) << (forward ? "forward" : "backward");
      }
    }
  });
}

}  // namespace
}  // namespace sluice::kernels
