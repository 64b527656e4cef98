// Products of E4M3 operands on every target, and how far quantisation moves a
// product.
#include "kernels/ops/fp8_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/reference/fp8_matmul.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels {
namespace {

using testing::kF32Rounding;
using testing::Near;
using testing::Same;
using testing::Tensor;

class Fp8MatmulTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(Fp8MatmulTest);

Tensor Ints(const std::vector<int>& values) {
  const Tensor tensor({static_cast<int64_t>(values.size())}, DType::kI32);
  for (size_t i = 0; i < values.size(); ++i) tensor.SetAt(static_cast<int64_t>(i), values[i]);
  return tensor;
}

// Any codes but NaN, with scales that differ from tile to tile.
Tensor RandomCodes(const Shape& shape, uint64_t seed, int64_t padding = 0) {
  const Tensor bits = Tensor::RandomIntegers(shape, DType::kU8, seed, 0, 255);
  const Tensor codes(shape, DType::kE4M3, padding);
  for (int64_t i = 0; i < bits.num_elements(); ++i) {
    const auto b = static_cast<uint8_t>(bits.At(i));
    codes.SetAt(i, ToFloat(E4M3{(b & 0x7f) == 0x7f ? uint8_t{0x12} : b}));
  }
  return codes;
}
Tensor RandomScales(const Shape& shape, uint64_t seed) {
  return Tensor::Random(shape, DType::kF32, seed, 0.25, 2.0);
}
Tensor Absolute(const Tensor& t) {
  const Tensor absolute = t.Clone();
  for (int64_t i = 0; i < t.num_elements(); ++i) absolute.SetAt(i, std::abs(t.At(i)));
  return absolute;
}

struct Weight {
  Weight(int64_t experts, const std::vector<int>& bounds, int64_t in)
      : codes(RandomCodes({experts, bounds.back(), in}, 1)),
        scales(RandomScales({experts, static_cast<int64_t>(bounds.size()) - 1, NumTiles(in)}, 2)),
        tiles(Ints(bounds)) {
    transposed_codes = Swapped(codes);
    transposed_scales = Swapped(scales);
    magnitudes = Absolute(codes);
    transposed_magnitudes = Absolute(transposed_codes);
  }
  static Tensor Swapped(const Tensor& t) {
    const int64_t experts = t.shape()[0], rows = t.shape()[1], columns = t.shape()[2];
    const Tensor swapped({experts, columns, rows}, t.dtype());
    for (int64_t i = 0; i < t.num_elements(); ++i) {
      const int64_t e = i / (rows * columns), r = i / columns % rows, c = i % columns;
      swapped.SetAt((e * columns + c) * rows + r, t.At(i));
    }
    return swapped;
  }
  QuantizedWeight View() const {
    return {codes, scales, transposed_codes, transposed_scales, tiles};
  }
  QuantizedWeight Magnitude() const {
    return {magnitudes, scales, transposed_magnitudes, transposed_scales, tiles};
  }
  Tensor codes, scales, transposed_codes, transposed_scales, tiles;
  Tensor magnitudes, transposed_magnitudes;
};

struct Problem {
  std::vector<int> row_tiles;
  int64_t in;
  std::vector<int> offsets;
};
const Problem kProblems[] = {{{0, 16}, 16, {0, 1}},
                             {{0, 96, 176}, 48, {0, 13}},
                             {{0, 128, 192}, 272, {0, 7, 7, 37}},
                             {{0, 64, 128, 192, 240}, 128, {0, 0, 100, 131}},
                             {{0, 5, 12}, 131, {0, 5}}};  // odd tiles: no pair of K is split

TEST_P(Fp8MatmulTest, BothDirectionsAgreeWithTheReference) {
  for (const Problem& p : kProblems) {
    const int64_t rows = p.offsets.back(), experts = static_cast<int64_t>(p.offsets.size()) - 1;
    const Weight weight(experts, p.row_tiles, p.in);
    const Tensor offsets = Ints(p.offsets);
    for (Fp8Direction direction : {Fp8Direction::kForward, Fp8Direction::kBackward}) {
      const bool forward = direction == Fp8Direction::kForward;
      const int64_t k = forward ? p.in : p.row_tiles.back();
      const int64_t n = forward ? p.row_tiles.back() : p.in;
      const int64_t tiles = forward ? NumTiles(p.in) : static_cast<int64_t>(p.row_tiles.size()) - 1;
      const Tensor codes = RandomCodes({rows, k}, 3, 3), scales = RandomScales({rows, tiles}, 4);
      const Tensor expected({rows, n}), magnitude({rows, n});
      Fp8MatmulArgs args{{codes, scales}, weight.View(), direction, offsets, expected};
      if (experts == 1) args.offsets = ConstTensorView();
      reference::Fp8Matmul(args);
      reference::Fp8Matmul(
          {{Absolute(codes), scales}, weight.Magnitude(), direction, args.offsets, magnitude});
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        const Tensor c({rows, n}, dtype, 2);
        args.c = c;
        Fp8Matmul(stream(), args);
        Wait();
        // Products are exact. At most 128 roundings in a tile, the product of
        // the scales, the promotion and one addition a tile, and the
        // reference's own.
        const double roundings = static_cast<double>(128 + 2 + tiles + 1);
        ASSERT_TRUE(Near(c, expected,
                         {.relative = dtype == DType::kBF16 ? testing::OneUlp(dtype) : 0.0,
                          .magnitude = &magnitude,
                          .magnitude_factor = roundings * kF32Rounding}))
            << absl::StrCat(rows, " x ", k, " x ", n);
        ASSERT_TRUE(c.PaddingIsUntouched());
      }
    }
  }
}

struct ColumnOperand {
  ColumnOperand(int64_t rows, int64_t width, int64_t groups, uint64_t seed)
      : codes(RandomCodes({rows, width}, seed)),
        scales(RandomScales({NumColumnTiles(rows, groups), width}, seed + 1)),
        magnitudes(Absolute(codes)) {}
  QuantizedColumns View() const { return {codes, scales}; }
  QuantizedColumns Magnitude() const { return {magnitudes, scales}; }
  Tensor codes, scales, magnitudes;
};

TEST_P(Fp8MatmulTest, TheWeightGradientAgreesWithTheReference) {
  for (const std::vector<int>& bounds : std::vector<std::vector<int>>{
           {0, 1}, {0, 131}, {0, 0, 129, 130, 290}, {0, 64, 64}, {0, 0}}) {
    const int64_t rows = bounds.back(), experts = static_cast<int64_t>(bounds.size()) - 1;
    const Tensor offsets = Ints(bounds);
    const ColumnOperand dy(rows, 37, experts, 5), x(rows, 48, experts, 7);
    const Tensor start = Tensor::Random({experts, 37, 48}, DType::kF32, 9);
    const Tensor expected = start.Clone(), magnitude = Absolute(start);
    const Tensor dw = start.Clone();
    Fp8WeightGradientArgs args{dy.View(), x.View(), offsets, dw};
    if (experts == 1) args.offsets = ConstTensorView();
    Fp8WeightGradient(stream(), args);
    Wait();
    reference::Fp8WeightGradient({dy.View(), x.View(), args.offsets, expected});
    reference::Fp8WeightGradient({dy.Magnitude(), x.Magnitude(), args.offsets, magnitude});
    // As above; the reference rounds every addition to FP32.
    const double roundings = static_cast<double>(128 + 2 + NumTiles(rows) + 1 + rows);
    ASSERT_TRUE(
        Near(dw, expected, {.magnitude = &magnitude, .magnitude_factor = roundings * kF32Rounding}))
        << rows << " rows, " << experts << " experts";
  }
}

TEST_P(Fp8MatmulTest, ARowDependsOnNothingButItself) {
  const Weight weight(2, {0, 96, 176}, 272);
  const Tensor codes = RandomCodes({301, 272}, 11), scales = RandomScales({301, 3}, 12);
  const Tensor offsets = Ints({0, 200, 301}), c({301, 176});
  Fp8Matmul(stream(), {{codes, scales}, weight.View(), Fp8Direction::kForward, offsets, c});
  Wait();
  for (int row : {0, 1, 199, 200, 300}) {
    const Tensor alone({1, 176}), first = Ints({0, row < 200, 1});
    Fp8Matmul(stream(), {{codes.view().Rows(row, 1), scales.view().Rows(row, 1)},
                         weight.View(),
                         Fp8Direction::kForward,
                         first,
                         alone});
    Wait();
    for (int64_t j = 0; j < 176; ++j) ASSERT_EQ(alone.At(j), c.At(row * 176 + j)) << row;
  }
}

TEST_P(Fp8MatmulTest, AnExpertWithoutRowsIsNotTouched) {
  const ColumnOperand dy(7, 5, 3, 13), x(7, 6, 3, 15);
  const Tensor dw({3, 5, 6});  // -0 would become 0 if even a 0 were added
  for (int64_t i = 0; i < 90; ++i) dw.SetAt(i, -0.0);
  const Tensor offsets = Ints({0, 3, 3, 7});
  Fp8WeightGradient(stream(), {dy.View(), x.View(), offsets, dw});
  Wait();
  for (int64_t i = 30; i < 60; ++i) EXPECT_TRUE(std::signbit(dw.At(i))) << i;
  EXPECT_NE(dw.At(0), 0);
  EXPECT_NE(dw.At(89), 0);
}

// Sums of one tile are exact here (small integers), and so is each promoted
// term; but added up before they are scaled, 2^24 + 1 would lose its 1.
TEST_P(Fp8MatmulTest, EveryTileIsPromotedWithItsOwnScale) {
  Weight weight(1, {0, 1}, 384);
  const Tensor codes({1, 384}, DType::kE4M3), scales = Tensor::Of({1, 1, 1}).To(DType::kF32);
  for (int64_t k = 0; k < 384; ++k) {
    codes.SetAt(k, k % 128 == 0 ? 1 : 0);
    weight.codes.SetAt(k, 1);
    weight.transposed_codes.SetAt(k, 1);
  }
  const Tensor tile_scales = Tensor::Of({0x1p24, -0x1p24, 0x1p-20}, DType::kF32, {3});
  for (int64_t t = 0; t < 3; ++t) {
    weight.scales.SetAt(t, tile_scales.At(t));
    weight.transposed_scales.SetAt(t, tile_scales.At(t));
  }
  const Tensor c({1, 1});
  Fp8Matmul(stream(),
            {{codes, scales.view().Reshape({1, 3})}, weight.View(), Fp8Direction::kForward, {}, c});
  Wait();
  EXPECT_EQ(c.At(0), 0x1p-20);
}

// DeepGEMM's measure of a product in FP8: 1 - 2 sum xy / sum (x^2 + y^2) below
// 0.001.
TEST_P(Fp8MatmulTest, AProductIsNearThatOfTheValuesBeforeQuantisation) {
  const int64_t rows = 32, in = 256, out = 64;
  const Tensor x = Tensor::Random({rows, in}, DType::kBF16, 17, -3, 3);
  const Tensor w = Tensor::Random({1, out, in}, DType::kBF16, 18, -0.1, 0.1);
  const Tensor codes({rows, in}, DType::kE4M3), scales({rows, 2});
  const Tensor w_codes(w.shape(), DType::kE4M3), w_scales({1, 1, 2});
  const Tensor w_transposed({1, in, out}, DType::kE4M3), w_transposed_scales({1, 2, 1});
  const QuantizedWeight weight{w_codes, w_scales, w_transposed, w_transposed_scales, {}};
  const Tensor y({rows, out});
  Quantize(stream(), {.x = x, .rows = {codes, scales}});
  QuantizeWeight(stream(), {.w = w, .weight = weight});
  Fp8Matmul(stream(), {{codes, scales}, weight, Fp8Direction::kForward, {}, y});
  Wait();
  double dot = 0, squares = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double exact = 0;
      for (int64_t i = 0; i < in; ++i) exact += x.At(r * in + i) * w.At(o * in + i);
      const double found = y.At(r * out + o);
      dot += exact * found;
      squares += exact * exact + found * found;
    }
  }
  EXPECT_LT(1 - 2 * dot / squares, 0.001);
}

}  // namespace
}  // namespace sluice::kernels
