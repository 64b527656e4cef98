// Products of E4M3 operands on every target, and how far quantisation moves a
// product.
#include "kernels/ops/fp8_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
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
  Weight(int64_t experts, const std::vector<int>& bounds, int64_t in, int64_t parts = 0)
      : codes(RandomCodes({experts, bounds.back(), in}, 1)),
        scales(RandomScales({experts, static_cast<int64_t>(bounds.size()) - 1, NumTiles(in)}, 2)),
        tiles(Ints(bounds)),
        equal_parts(parts) {
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
    return {codes, scales, transposed_codes, transposed_scales, tiles, equal_parts};
  }
  QuantizedWeight Magnitude() const {
    return {magnitudes, scales, transposed_magnitudes, transposed_scales, tiles, equal_parts};
  }
  Tensor codes, scales, transposed_codes, transposed_scales, tiles;
  Tensor magnitudes, transposed_magnitudes;
  int64_t equal_parts;
};

struct Problem {
  std::vector<int> row_tiles;
  int64_t in;
  std::vector<int> offsets;
  int64_t equal_parts = 0;  // of the rows
};
const Problem kProblems[] = {{{0, 16}, 16, {0, 1}},
                             {{0, 96, 176}, 48, {0, 13}},
                             {{0, 128, 192}, 272, {0, 7, 7, 37}},
                             {{0, 64, 128, 192, 240}, 128, {0, 0, 100, 131}},
                             {{0, 5, 12}, 131, {0, 5}},  // odd tiles: no pair of K is split
                             {{0, 128, 144, 272, 288}, 48, {0, 5, 5, 21}, 2},
                             {{0, 80, 160, 240}, 144, {0, 9}, 3}};

TEST_P(Fp8MatmulTest, BothDirectionsAgreeWithTheReference) {
  for (const Problem& p : kProblems) {
    const int64_t rows = p.offsets.back(), experts = static_cast<int64_t>(p.offsets.size()) - 1;
    const Weight weight(experts, p.row_tiles, p.in, p.equal_parts);
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
        const Tensor c = Tensor::Unwritten({rows, n}, dtype, 2);
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

// The sum that kernels/ops/fp8_matmul.h defines, of one element: tiles end at
// `bounds`, element k of the operands is a(k) and b(k), its tile's scales are
// scale_a(t) and scale_b(t).
struct Definition {
  std::vector<int64_t> bounds;  // from 0 to K
  std::function<float(int64_t)> a, b, scale_a, scale_b;

  float Total() const {
    float total = 0;
    for (size_t t = 0; t + 1 < bounds.size(); ++t) {
      const int64_t begin = bounds[t], size = bounds[t + 1] - begin;
      float sum = 0;
      for (int64_t i = 0; i < size; ++i) {
        const int64_t k = begin + ((i ^ 1) < size ? i ^ 1 : i);
        sum += a(k) * b(k);  // the product is exact
      }
      const auto tile = static_cast<int64_t>(t);
      const float scale = scale_a(tile) * scale_b(tile);
      total = std::fmaf(sum, scale, total);
    }
    return total;
  }
};

float FloatAt(const Tensor& t, int64_t i) { return static_cast<float>(t.At(i)); }

// The same on every instruction set of the CPU.
TEST_P(Fp8MatmulTest, OnTheCpuProductsHaveTheBitsOfTheirDefinition) {
  if (GetParam().create != nullptr) GTEST_SKIP() << "tensor units sum in another order";
  for (const Problem& p : kProblems) {
    const int64_t rows = p.offsets.back(), experts = static_cast<int64_t>(p.offsets.size()) - 1;
    const int64_t out = p.row_tiles.back();
    const Weight weight(experts, p.row_tiles, p.in, p.equal_parts);
    const Tensor offsets = Ints(p.offsets);
    for (Fp8Direction direction : {Fp8Direction::kForward, Fp8Direction::kBackward}) {
      const bool forward = direction == Fp8Direction::kForward;
      const int64_t k_extent = forward ? p.in : out, n_extent = forward ? out : p.in;
      Definition sum;
      for (int64_t k = 0; k < p.in && forward; k += kQuantTile) sum.bounds.push_back(k);
      if (forward) sum.bounds.push_back(p.in);
      if (!forward) sum.bounds.assign(p.row_tiles.begin(), p.row_tiles.end());
      const auto tiles = static_cast<int64_t>(sum.bounds.size()) - 1;
      const Tensor codes = RandomCodes({rows, k_extent}, 3),
                   scales = RandomScales({rows, tiles}, 4);
      const Tensor c({rows, n_extent}), expected({rows, n_extent});
      Fp8Matmul(stream(), {{codes, scales}, weight.View(), direction, offsets, c});
      Wait();
      int64_t e = 0;
      for (int64_t r = 0; r < rows; ++r) {
        while (p.offsets[static_cast<size_t>(e) + 1] <= r) ++e;
        sum.a = [&](int64_t k) { return FloatAt(codes, r * k_extent + k); };
        sum.scale_a = [&](int64_t t) { return FloatAt(scales, r * tiles + t); };
        for (int64_t n = 0, row_tile = 0; n < n_extent; ++n) {
          while (forward && p.row_tiles[static_cast<size_t>(row_tile) + 1] <= n) ++row_tile;
          sum.b = [&](int64_t k) {
            return FloatAt(weight.codes, e * out * p.in + (forward ? n * p.in + k : k * p.in + n));
          };
          sum.scale_b = [&](int64_t t) {
            const int64_t across = NumTiles(p.in);
            const int64_t row_tiles = weight.scales.shape()[1];
            return FloatAt(weight.scales, (e * row_tiles + (forward ? row_tile : t)) * across +
                                              (forward ? t : n / kQuantTile));
          };
          expected.SetAt(r * n_extent + n, static_cast<double>(sum.Total()));
        }
      }
      ASSERT_TRUE(Same(c, expected)) << absl::StrCat(rows, " x ", k_extent, " x ", n_extent);
    }
  }
}

TEST_P(Fp8MatmulTest, OnTheCpuTheWorkedExampleOfTheDocs) {
  if (GetParam().create != nullptr) GTEST_SKIP() << "tensor units sum in another order";
  const Weight weight(1, {0, 1}, 4);
  const Tensor codes = Tensor::Of({0, 256, 256, 0x1p-9}, DType::kE4M3, {1, 4});
  const Tensor scales = Tensor::Of({1}, DType::kF32, {1, 1}), c({1, 1});
  const std::vector<double> b = {0, 256, -256, 1};
  for (int64_t k = 0; k < 4; ++k) weight.codes.SetAt(k, b[static_cast<size_t>(k)]);
  for (int64_t k = 0; k < 4; ++k) weight.transposed_codes.SetAt(k, b[static_cast<size_t>(k)]);
  Fp8Matmul(stream(), {{codes, scales}, weight.View(), Fp8Direction::kForward, {}, c});
  Wait();
  EXPECT_EQ(c.At(0), 0);
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

TEST_P(Fp8MatmulTest, OnTheCpuTheWeightGradientHasTheBitsOfItsDefinition) {
  if (GetParam().create != nullptr) GTEST_SKIP() << "tensor units sum in another order";
  const std::vector<int> bounds = {0, 0, 129, 130, 290};
  const int64_t experts = 4, out = 19, in = 48;
  const ColumnOperand dy(290, out, experts, 5), x(290, in, experts, 7);
  const Tensor dw = Tensor::Random({experts, out, in}, DType::kF32, 9), expected = dw.Clone();
  const Tensor offsets = Ints(bounds);
  Fp8WeightGradient(stream(), {dy.View(), x.View(), offsets, dw});
  Wait();
  for (int64_t i = 0; i < experts * out * in; ++i) {
    const int64_t e = i / (out * in), o = i / in % out, column = i % in;
    const int64_t begin = bounds[static_cast<size_t>(e)];
    const int64_t rows = bounds[static_cast<size_t>(e) + 1] - begin;
    if (rows == 0) continue;
    Definition sum;
    for (int64_t k = 0; k < rows; k += kQuantTile) sum.bounds.push_back(k);
    sum.bounds.push_back(rows);
    const int64_t first_tile = begin / kQuantTile + e;
    sum.a = [&](int64_t k) { return FloatAt(dy.codes, (begin + k) * out + o); };
    sum.b = [&](int64_t k) { return FloatAt(x.codes, (begin + k) * in + column); };
    sum.scale_a = [&](int64_t t) { return FloatAt(dy.scales, (first_tile + t) * out + o); };
    sum.scale_b = [&](int64_t t) { return FloatAt(x.scales, (first_tile + t) * in + column); };
    expected.SetAt(i, expected.At(i) + static_cast<double>(sum.Total()));
  }
  EXPECT_TRUE(Same(dw, expected));
}

TEST_P(Fp8MatmulTest, ARowDependsOnNothingButItself) {
  const Weight weight(2, {0, 96, 176}, 272);
  const Tensor codes = RandomCodes({301, 272}, 11), scales = RandomScales({301, 3}, 12);
  const Tensor offsets = Ints({0, 200, 301}), c = Tensor::Unwritten({301, 176});
  Fp8Matmul(stream(), {{codes, scales}, weight.View(), Fp8Direction::kForward, offsets, c});
  Wait();
  for (int row : {0, 1, 199, 200, 300}) {
    const Tensor alone = Tensor::Unwritten({1, 176}), first = Ints({0, row < 200, 1});
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
  const auto unwritten_codes = [](const Shape& shape) {
    return Tensor::Unwritten(shape, DType::kE4M3);
  };
  const Tensor codes = unwritten_codes({rows, in}), scales = Tensor::Unwritten({rows, 2});
  const Tensor w_codes = unwritten_codes(w.shape()), w_scales = Tensor::Unwritten({1, 1, 2});
  const Tensor w_transposed = unwritten_codes({1, in, out});
  const Tensor w_transposed_scales = Tensor::Unwritten({1, 2, 1});
  const QuantizedWeight weight{w_codes, w_scales, w_transposed, w_transposed_scales, {}};
  const Tensor y = Tensor::Unwritten({rows, out});
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
