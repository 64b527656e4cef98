// One pass has the bits of the two ops that it stands for, and means what kernels/reference says.
#include "kernels/ops/swiglu_quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/swiglu.h"
#include "kernels/reference/swiglu.h"
#include "kernels/reference/swiglu_quantize.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::OneUlp;
using testing::PaddingOf;
using testing::Same;
using testing::Tensor;

class SwigluQuantizeTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(SwigluQuantizeTest);

struct Problem {
  int64_t rows, width;
  std::vector<int> offsets;  // empty: one group
};
const Problem kProblems[] = {{0, 16, {}},
                             {1, 1, {}},
                             {3, 127, {}},
                             {5, 129, {}},
                             {130, 64, {}},
                             {129, 256, {}},
                             {300, 136, {0, 128, 128, 300}},
                             {257, 48, {0, 0, 129, 130, 257}},
                             {40, 80, {0, 40, 40}}};

// Codes along rows and along columns; nothing written yet.
struct Codes {
  Codes(int64_t rows, int64_t width, int64_t tiles, int64_t groups, bool transposed_columns)
      : row_codes(Tensor::Unwritten({rows, width}, DType::kE4M3, PaddingOf(width))),
        row_scales(Tensor::Unwritten({rows, tiles}, DType::kF32, 2)),
        column_codes(Tensor::Unwritten(
            transposed_columns ? Shape{width, NumColumnCodes(rows, groups)} : Shape{rows, width},
            DType::kE4M3)),
        column_scales(Tensor::Unwritten({NumColumnTiles(rows, groups), width})),
        transposed(transposed_columns) {}
  QuantizedRows rows() const { return {row_codes, row_scales}; }
  QuantizedColumns columns() const { return {column_codes, column_scales, transposed}; }
  Tensor row_codes, row_scales, column_codes, column_scales;
  bool transposed;
};

::testing::AssertionResult SameCodes(const Codes& found, const Codes& wanted) {
  const std::pair<const char*, Tensor Codes::*> parts[] = {
      {"codes along rows", &Codes::row_codes},
      {"scales along rows", &Codes::row_scales},
      {"codes along columns", &Codes::column_codes},
      {"scales along columns", &Codes::column_scales}};
  for (const auto& [name, part] : parts) {
    const auto same = Same(found.*part, wanted.*part);
    if (!same) return ::testing::AssertionFailure() << name << ": " << same.message();
    if (!(found.*part).PaddingIsUntouched()) {
      return ::testing::AssertionFailure() << name << ": padding was written";
    }
  }
  return ::testing::AssertionSuccess();
}

// What is asked for, and how.
struct Variant {
  const char* name;
  bool rows = true, columns = true, values = true, transposed = false, is_wild = false;
  QuantizeOptions options = {};
};
std::vector<Variant> Variants() {
  return {{"all"},
          {"all, transposed", true, true, true, true},
          {"transposed, values of any kind", true, true, false, true, true},
          {"values of any kind", true, true, true, false, true},
          {"rows by powers of two", true, false, false, false, false, {ScaleFormat::kPowerOfTwo}},
          {"columns with a floor", false, true, false, false, false, {ScaleFormat::kF32, 1.0f}},
          {"square blocks", true, true, false, false, false, {.square_blocks = true}},
          {"square blocks, transposed", true, true, false, true, false, {.square_blocks = true}}};
}

// Gates on both sides of silu's bend, and `is_wild`: infinities, NaN of both signs, the largest and
// the smallest numbers, here and there.
Tensor Numbers(const Shape& shape, uint64_t seed, bool is_wild, int64_t padding) {
  const Tensor exponent = Tensor::Random(shape, DType::kF32, seed + 100, -16, 2);
  const Tensor x = Tensor::Random(shape, DType::kBF16, seed, -8, 8, padding);
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const double wild[] = {infinity, -infinity, nan, std::copysign(nan, -1.0), 3e38, 1e-40, -0.0};
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    if (i % 11 == 3) x.SetAt(i, x.At(i) * std::exp2(exponent.At(i)));
    if (i % 13 == 5) x.SetAt(i, 0.0);
    if (is_wild && i % 397 == 7) x.SetAt(i, wild[i / 397 % 7]);
  }
  return x;
}

// Beside rows that a GPU reads 16 bytes at a time, and in a case by themselves, rows that it
// cannot.
int64_t OtherPaddingOf(const Problem& p) { return p.rows % 2 == 0 ? PaddingOf(p.width) : 3; }

Tensor TilesOfGateAndUp(int64_t width) {
  std::vector<double> bounds = {0};
  for (const int64_t first : {int64_t{0}, width}) {
    for (int64_t at = 0; at < width; at += kQuantTile) {
      bounds.push_back(static_cast<double>(first + std::min(width, at + kQuantTile)));
    }
  }
  const auto count = static_cast<int64_t>(bounds.size());
  return Tensor::Of(bounds, DType::kI32, {count});
}

// Calls run(problem, its offsets, how many groups, variant) for those that this device can do.
template <typename Run>
void ForEachCase(const Stream& stream, const Run& run) {
  for (const Problem& p : kProblems) {
    const Tensor offsets = Tensor::Of(std::vector<double>(p.offsets.begin(), p.offsets.end()),
                                      DType::kI32, {static_cast<int64_t>(p.offsets.size())});
    const int64_t groups = p.offsets.empty() ? 1 : offsets.num_elements() - 1;
    for (const Variant& v : Variants()) {
      if (v.transposed && !ReadsTransposedColumns(stream)) continue;
      SCOPED_TRACE(absl::StrCat(p.rows, " x ", p.width, ", ", v.name));
      run(p, p.offsets.empty() ? ConstTensorView() : ConstTensorView(offsets), groups, v);
    }
  }
}

TEST_P(SwigluQuantizeTest, HasTheBitsOfSwigluAndThenQuantize) {
  ForEachCase(stream(), [&](const Problem& p, const ConstTensorView& offsets, int64_t groups,
                            const Variant& v) {
    const int64_t padding = PaddingOf(p.width), tiles = NumTiles(p.width);
    const Tensor gate_up = Numbers({p.rows, 2 * p.width}, 1, v.is_wild, padding);
    const Tensor y = Tensor::Unwritten({p.rows, p.width}, DType::kBF16, OtherPaddingOf(p));
    const Tensor wanted_y = Tensor::Unwritten({p.rows, p.width}, DType::kBF16);
    const Codes found(p.rows, p.width, tiles, groups, v.transposed);
    const Codes wanted(p.rows, p.width, tiles, groups, v.transposed);
    SwigluQuantize(stream(), {.gate_up = gate_up,
                              .y = v.values ? y.view() : TensorView(),
                              .rows = v.rows ? found.rows() : QuantizedRows(),
                              .columns = v.columns ? found.columns() : QuantizedColumns(),
                              .offsets = offsets,
                              .options = v.options});
    Swiglu(stream(), {.gate_up = gate_up, .y = wanted_y});
    Quantize(stream(), {.x = wanted_y,
                        .rows = v.rows ? wanted.rows() : QuantizedRows(),
                        .columns = v.columns ? wanted.columns() : QuantizedColumns(),
                        .offsets = offsets,
                        .options = v.options});
    Wait();
    ASSERT_TRUE(SameCodes(found, wanted));
    if (!v.values) return;
    ASSERT_TRUE(Same(y, wanted_y));
    ASSERT_TRUE(y.PaddingIsUntouched());
  });
}

TEST_P(SwigluQuantizeTest, BackwardHasTheBitsOfSwigluBackwardAndThenQuantize) {
  ForEachCase(stream(), [&](const Problem& p, const ConstTensorView& offsets, int64_t groups,
                            const Variant& v) {
    const int64_t padding = PaddingOf(p.width), tiles = 2 * NumTiles(p.width), wide = 2 * p.width;
    const Tensor gate_up = Numbers({p.rows, wide}, 1, v.is_wild, padding);
    const Tensor dy = Numbers({p.rows, p.width}, 2, v.is_wild, OtherPaddingOf(p));
    const Tensor dgate_up = Tensor::Unwritten({p.rows, wide}, DType::kBF16, padding);
    const Tensor wanted_values = Tensor::Unwritten({p.rows, wide}, DType::kBF16);
    const Tensor bounds = TilesOfGateAndUp(p.width);
    const Codes found(p.rows, wide, tiles, groups, v.transposed);
    const Codes wanted(p.rows, wide, tiles, groups, v.transposed);
    SwigluBackwardQuantizeArgs args = {.dy = dy,
                                       .gate_up = gate_up,
                                       .dgate_up = v.values ? dgate_up.view() : TensorView(),
                                       .rows = v.rows ? found.rows() : QuantizedRows(),
                                       .columns = v.columns ? found.columns() : QuantizedColumns(),
                                       .offsets = offsets,
                                       .options = v.options};
    SwigluBackwardQuantize(stream(), args);
    SwigluBackward(stream(), {.dy = dy, .gate_up = gate_up, .dgate_up = wanted_values});
    Quantize(stream(), {.x = wanted_values,
                        .rows = v.rows ? wanted.rows() : QuantizedRows(),
                        .columns = v.columns ? wanted.columns() : QuantizedColumns(),
                        .tiles = bounds,
                        .offsets = offsets,
                        .options = v.options});
    Wait();
    ASSERT_TRUE(SameCodes(found, wanted));
    if (!v.values) return;
    ASSERT_TRUE(Same(dgate_up, wanted_values));
    ASSERT_TRUE(dgate_up.PaddingIsUntouched());
    args.dgate_up = gate_up;  // in place
    SwigluBackwardQuantize(stream(), args);
    Wait();
    ASSERT_TRUE(SameCodes(found, wanted));
    ASSERT_TRUE(Same(gate_up, wanted_values));
  });
}

// Of each code: the value is off by half a step of E4M3, 2^-4 of itself or 2^-10 of the scale,
// after it was off by one unit of BF16, and the scale is that of an amax that may be off by one
// unit.
::testing::AssertionResult MeansTheValues(const Codes& found, const Codes& wanted,
                                          const Tensor& values, const Tensor& tiles) {
  const double ulp = OneUlp(DType::kBF16);
  const auto scales = Near(found.row_scales, wanted.row_scales, {.relative = ulp});
  if (!scales) return scales;
  const int64_t width = values.shape()[1], num_tiles = tiles.num_elements() - 1;
  const Tensor decoded(values.shape()), unit(values.shape());
  for (int64_t i = 0; i < values.num_elements(); ++i) {
    int64_t tile = 0;
    while (tiles.At(tile + 1) <= static_cast<double>(i % width)) ++tile;
    const double scale = found.row_scales.At(i / width * num_tiles + tile);
    decoded.SetAt(i, found.row_codes.At(i) * scale);
    unit.SetAt(i, scale);
  }
  return Near(
      decoded, values,
      {.relative = (0x1p-4 + ulp) * 1.01, .magnitude = &unit, .magnitude_factor = 0x1p-10 * 1.01});
}

TEST_P(SwigluQuantizeTest, MeansWhatTheReferenceSays) {
  constexpr int64_t kRows = 131, kWidth = 144;
  const Tensor gate_up = Tensor::Random({kRows, 2 * kWidth}, DType::kBF16, 1, -8, 8);
  const Tensor dy = Tensor::Random({kRows, kWidth}, DType::kBF16, 2);
  const Codes forward(kRows, kWidth, 2, 1, false), wanted(kRows, kWidth, 2, 1, false);
  const Codes backward(kRows, 2 * kWidth, 4, 1, false),
      wanted_backward(kRows, 2 * kWidth, 4, 1, false);
  SwigluQuantize(stream(), {.gate_up = gate_up, .rows = forward.rows()});
  SwigluBackwardQuantize(stream(), {.dy = dy, .gate_up = gate_up, .rows = backward.rows()});
  Wait();
  const Tensor y({kRows, kWidth}, DType::kF64), dgate_up({kRows, 2 * kWidth}, DType::kF64);
  reference::Swiglu({.gate_up = gate_up, .y = y});
  reference::SwigluQuantize({.gate_up = gate_up, .rows = wanted.rows()});
  const Tensor tiles = Tensor::Of({0, 128, kWidth});
  EXPECT_TRUE(MeansTheValues(forward, wanted, y, tiles));
  reference::SwigluBackward({.dy = dy, .gate_up = gate_up, .dgate_up = dgate_up});
  reference::SwigluBackwardQuantize({.dy = dy, .gate_up = gate_up, .rows = wanted_backward.rows()});
  EXPECT_TRUE(MeansTheValues(backward, wanted_backward, dgate_up, TilesOfGateAndUp(kWidth)));
}

}  // namespace
}  // namespace sluice::kernels
