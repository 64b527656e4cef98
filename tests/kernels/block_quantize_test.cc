// The quantiser's bits: every instruction set against the rules written out (kernels/reference),
// and the rules against vectors computed elsewhere.
#include "kernels/ops/block_quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/e4m3_scale.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/reference/block_quantize.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"
#include "tests/support/source_path.h"

namespace sluice::kernels {
namespace {

using testing::Same;
using testing::Tensor;

class BlockQuantizeTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(BlockQuantizeTest);

nlohmann::json Vectors(const char* name) {
  std::ifstream file(testing::SourcePath(std::string("tests/golden/vectors/") + name));
  return nlohmann::json::parse(file);
}

struct Rows {
  Rows(int64_t rows, int64_t columns, int64_t tiles, int64_t padding = 0)
      : codes(Tensor::Unwritten({rows, columns}, DType::kE4M3, padding)),
        scales(Tensor::Unwritten({rows, tiles})) {}
  Rows(int64_t rows, int64_t columns) : Rows(rows, columns, NumTiles(columns)) {}
  operator QuantizedRows() const { return {codes, scales}; }  // NOLINT
  Tensor codes, scales;
};

struct Columns {
  Columns(int64_t rows, int64_t columns, int64_t groups = 1, bool transposed_codes = false)
      : codes(Tensor::Unwritten(
            transposed_codes ? Shape{columns, NumColumnCodes(rows, groups)} : Shape{rows, columns},
            DType::kE4M3)),
        scales(Tensor::Unwritten({NumColumnTiles(rows, groups), columns})),
        transposed(transposed_codes) {}
  operator QuantizedColumns() const { return {codes, scales, transposed}; }  // NOLINT
  Tensor codes, scales;
  bool transposed;
};

struct Weight {
  Weight(const Shape& shape, const Tensor& row_tiles)
      : codes(Tensor::Unwritten(shape, DType::kE4M3)),
        scales(Tensor::Unwritten({shape[0], row_tiles.num_elements() - 1, NumTiles(shape[2])})),
        transposed_codes(Tensor::Unwritten({shape[0], shape[2], shape[1]}, DType::kE4M3)),
        transposed_scales(
            Tensor::Unwritten({shape[0], NumTiles(shape[2]), row_tiles.num_elements() - 1})),
        tiles(row_tiles) {}
  operator QuantizedWeight() const {  // NOLINT
    return {codes, scales, transposed_codes, transposed_scales, tiles};
  }
  Tensor codes, scales, transposed_codes, transposed_scales, tiles;
};

// Magnitudes over 40 powers of two, so that a tile holds normal and subnormal codes and zeros.
Tensor Spread(const Shape& shape, DType dtype, uint64_t seed, int64_t padding = 0) {
  const Tensor exponent = Tensor::Random(shape, DType::kF32, seed + 100, -20, 2);
  Tensor x = Tensor::Random(shape, dtype, seed, -1, 1, padding);
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    x.SetAt(i, i % 11 == 3 ? 0.0 : x.At(i) * std::exp2(exponent.At(i)));
  }
  return x;
}

TEST(E4M3Test, ConversionAgreesWithTheVectorsAndIsExactBack) {
  const auto vectors = Vectors("quant_scale_examples.json")["e4m3"]["encode"];
  for (const auto& test : vectors) {
    const E4M3 code = ToE4M3(test["x"].get<float>());
    EXPECT_EQ(code.bits, std::stoi(test["bits"].get<std::string>(), nullptr, 16)) << test;
    EXPECT_EQ(ToFloat(code), test["e4m3"].get<float>()) << test;
  }
  for (int bits = 0; bits < 256; ++bits) {
    const E4M3 code{static_cast<uint8_t>(bits)};
    EXPECT_EQ(ToE4M3(ToFloat(code)).bits, bits);
    EXPECT_EQ(std::isnan(ToFloat(code)), (bits & 0x7f) == 0x7f) << bits;
  }
  EXPECT_EQ(ToE4M3(std::numeric_limits<float>::infinity()).bits, 0x7e);
}

TEST(E4M3Test, ScalesAgreeWithTheVectors) {
  const auto cases = Vectors("quant_scale_examples.json")["scale"]["cases"];
  ASSERT_FALSE(cases.empty());
  for (const auto& test : cases) {
    const float amax = test["amax"].get<float>();
    EXPECT_EQ(ScaleOf(amax, false, 1e-4f), test["scale_fp32"].get<float>()) << test;
    const float rounded = ScaleOf(amax, true, 1e-4f);
    EXPECT_EQ(rounded, test["scale_ue8m0"].get<float>()) << test;
    EXPECT_EQ(ToUe8m0(rounded), test["ue8m0_biased_exponent"].get<int>()) << test;
    EXPECT_EQ(FromUe8m0(ToUe8m0(rounded)), rounded);
  }
}

TEST_P(BlockQuantizeTest, ATileAgreesWithTheVectors) {
  const auto test = Vectors("quant_scale_examples.json")["tile_1x128"];
  const Tensor x = Tensor::Of(test["x"].get<std::vector<double>>(), DType::kBF16, {1, 128});
  for (const char* format : {"fp32", "ue8m0"}) {
    const Rows rows(1, 128);
    QuantizeOptions options;
    if (format[0] == 'u') options.format = ScaleFormat::kPowerOfTwo;
    Quantize(stream(), {.x = x, .rows = rows, .options = options});
    Wait();
    EXPECT_EQ(rows.scales.At(0), test[format]["scale"].get<float>());
    const std::string hex = test[format]["codes_hex"];
    for (int64_t i = 0; i < 128; ++i) {
      const int code = std::stoi(hex.substr(static_cast<size_t>(2 * i), 2), nullptr, 16);
      ASSERT_EQ(rows.codes.view().data<E4M3>()[i].bits, code) << format << " " << i;
    }
  }
}

struct Problem {
  int64_t rows, columns;
  std::vector<int> tiles, offsets;  // empty: the default
};
const Problem kProblems[] = {{0, 16, {}, {}},
                             {1, 1, {}, {}},
                             {3, 127, {}, {}},
                             {5, 129, {}, {}},
                             {130, 64, {}, {}},
                             {257, 48, {}, {0, 0, 129, 130, 257}},
                             {40, 160, {0, 80, 160}, {0, 40, 40}},
                             {7, 300, {0, 128, 172, 300}, {}}};

Tensor Ints(const std::vector<int>& values) {
  const Tensor tensor({static_cast<int64_t>(values.size())}, DType::kI32);
  for (size_t i = 0; i < values.size(); ++i) tensor.SetAt(static_cast<int64_t>(i), values[i]);
  return tensor;
}

TEST_P(BlockQuantizeTest, BothTilingsEqualTheReferenceToTheBit) {
  for (const Problem& p : kProblems) {
    const Tensor tiles = Ints(p.tiles), offsets = Ints(p.offsets);
    const int64_t num_tiles = p.tiles.empty() ? NumTiles(p.columns) : tiles.num_elements() - 1;
    const int64_t groups = p.offsets.empty() ? 1 : offsets.num_elements() - 1;
    for (int variant = 0; variant < 5; ++variant) {
      QuantizeArgs args;
      const int64_t padding = p.rows % 2 == 0 ? 8 : 3;  // rows at multiples of 16 bytes, or not
      const DType dtype = variant == 1 ? DType::kF32 : DType::kBF16;
      const Tensor x = Spread({p.rows, p.columns}, dtype, 1, padding);
      args.x = x;
      if (!p.tiles.empty()) args.tiles = tiles;
      if (!p.offsets.empty()) args.offsets = offsets;
      if (variant == 2) args.options.format = ScaleFormat::kPowerOfTwo;
      if (variant == 1) args.options.amax_floor = 1;  // many tiles are below
      args.options.square_blocks = variant == 3;
      const bool transposed = variant == 4;
      if (transposed && !ReadsTransposedColumns(stream())) continue;
      const Rows rows(p.rows, p.columns, num_tiles, 5), wanted(p.rows, p.columns, num_tiles);
      const Columns columns(p.rows, p.columns, groups, transposed);
      const Columns wanted_columns(p.rows, p.columns, groups, transposed);
      args.rows = rows;
      args.columns = columns;
      Quantize(stream(), args);
      Wait();
      args.rows = wanted;
      args.columns = wanted_columns;
      reference::Quantize(args);
      SCOPED_TRACE(absl::StrCat(p.rows, " x ", p.columns, " variant ", variant));
      ASSERT_TRUE(Same(rows.codes.To(DType::kF32), wanted.codes.To(DType::kF32)));
      ASSERT_TRUE(rows.codes.PaddingIsUntouched());
      ASSERT_TRUE(Same(rows.scales, wanted.scales));
      ASSERT_TRUE(Same(columns.codes, wanted_columns.codes));
      ASSERT_TRUE(Same(columns.scales, wanted_columns.scales));

      const Columns again(p.rows, p.columns, groups, transposed);
      const Columns wanted_again(p.rows, p.columns, groups, transposed);
      if (variant == 3) continue;
      RequantizeColumnsArgs requantize{wanted, args.tiles, args.offsets, again, args.options};
      RequantizeColumns(stream(), requantize);
      Wait();
      requantize.columns = wanted_again;
      reference::RequantizeColumns(requantize);
      ASSERT_TRUE(Same(again.codes, wanted_again.codes));
      ASSERT_TRUE(Same(again.scales, wanted_again.scales));
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        const Tensor y = Tensor::Unwritten({p.rows, p.columns}, dtype, 2);
        const Tensor expected({p.rows, p.columns}, dtype);
        DequantizeRows(stream(), {.rows = wanted, .tiles = args.tiles, .y = y});
        Wait();
        reference::DequantizeRows({.rows = wanted, .tiles = args.tiles, .y = expected});
        ASSERT_TRUE(Same(y.To(dtype), expected));
      }
    }
  }
}

TEST_P(BlockQuantizeTest, WeightBlocksEqualTheReferenceToTheBit) {
  const std::vector<std::vector<int>> row_tiles = {
      {0, 1}, {0, 128, 192}, {0, 96, 176}, {0, 128, 172, 300, 344}};
  for (const auto& bounds : row_tiles) {
    for (int64_t width : {16, 130}) {
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        const Shape shape = {2, bounds.back(), width};
        const Tensor w = Spread(shape, dtype, 3), tiles = Ints(bounds);
        const Weight weight(shape, tiles), wanted(shape, tiles);
        QuantizeOptions options;
        if (width == 16) options.format = ScaleFormat::kPowerOfTwo;
        QuantizeWeight(stream(), {.w = w, .weight = weight, .options = options});
        Wait();
        reference::QuantizeWeight({.w = w, .weight = wanted, .options = options});
        ASSERT_TRUE(Same(weight.codes, wanted.codes)) << bounds.back() << " x " << width;
        ASSERT_TRUE(Same(weight.scales, wanted.scales));
        ASSERT_TRUE(Same(weight.transposed_codes, wanted.transposed_codes));
        ASSERT_TRUE(Same(weight.transposed_scales, wanted.transposed_scales));
        const Tensor back = Tensor::Unwritten(shape, dtype), expected(shape, dtype);
        DequantizeWeight(stream(), {.weight = weight, .w = back});
        Wait();
        reference::DequantizeWeight({.weight = weight, .w = expected});
        ASSERT_TRUE(Same(back, expected));
      }
    }
  }
}

// A loss of any size trains alike: scaling the input by 2^-k leaves the codes and scales the scale.
TEST_P(BlockQuantizeTest, CodesDoNotDependOnThePowerOfTwoOfTheInput) {
  const Tensor x = Spread({130, 128}, DType::kBF16, 5);
  const Rows base(130, 128);
  const Columns base_columns(130, 128);
  Quantize(stream(), {.x = x, .rows = base, .columns = base_columns});
  Wait();
  for (int k = 1; k <= 40; ++k) {
    const Tensor small = x.Clone();
    for (int64_t i = 0; i < x.num_elements(); ++i) small.SetAt(i, std::ldexp(x.At(i), -k));
    const Rows rows(130, 128);
    const Columns columns(130, 128);
    Quantize(stream(), {.x = small, .rows = rows, .columns = columns});
    Wait();
    ASSERT_TRUE(Same(rows.codes, base.codes)) << k;
    ASSERT_TRUE(Same(columns.codes, base_columns.codes)) << k;
    for (int64_t r = 0; r < 130; ++r) {
      ASSERT_EQ(rows.scales.At(r), std::ldexp(base.scales.At(r), -k)) << k;
    }
  }
}

// docs/fp8.md, "The quantiser".
TEST_P(BlockQuantizeTest, TheWorkedExampleOfTheDocs) {
  const Tensor x({1, 128});
  x.SetAt(0, 3.0);
  x.SetAt(1, -1.1);
  x.SetAt(2, 0.004);
  const Rows rows(1, 128), rounded(1, 128);
  Quantize(stream(), {.x = x, .rows = rows});
  QuantizeOptions options{.format = ScaleFormat::kPowerOfTwo};
  Quantize(stream(), {.x = x, .rows = rounded, .options = options});
  Wait();
  const E4M3 *a = rows.codes.view().data<E4M3>(), *b = rounded.codes.view().data<E4M3>();
  EXPECT_EQ(rows.scales.At(0), 3.0f / 448.0f);
  EXPECT_EQ(a[0].bits, 0x7e);
  EXPECT_EQ(a[1].bits, 0xf2);
  EXPECT_EQ(a[2].bits, 0x32);
  EXPECT_EQ(rounded.scales.At(0), 0x1p-7);
  EXPECT_EQ(b[0].bits, 0x7c);
  EXPECT_EQ(b[1].bits, 0xf1);
  EXPECT_EQ(b[2].bits, 0x30);
}

TEST_P(BlockQuantizeTest, ZeroTinyAndNonFiniteTiles) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const Tensor x({5, 128});
  x.SetAt(0, -0.0);          // row 0: zeros
  x.SetAt(128, 0x1p-149);    // row 1: the smallest number there is
  x.SetAt(2 * 128, 3.4e38);  // row 2: nearly the largest
  x.SetAt(3 * 128, nan);     // row 3: NaN beside 1, and after it in the same lane of any vector
  x.SetAt(3 * 128 + 1, 1.0);
  x.SetAt(3 * 128 + 65, nan);
  x.SetAt(4 * 128, infinity);  // row 4: infinity beside 1
  x.SetAt(4 * 128 + 1, 1.0);
  const Rows rows(5, 128);
  Quantize(stream(), {.x = x, .rows = rows});
  const Tensor y = Tensor::Unwritten({5, 128});
  DequantizeRows(stream(), {.rows = rows, .y = y});
  Wait();
  const E4M3* codes = rows.codes.view().data<E4M3>();
  EXPECT_EQ(rows.scales.At(0), 1.0);
  EXPECT_EQ(codes[0].bits, 0x80);
  EXPECT_EQ(codes[1].bits, 0);
  EXPECT_EQ(rows.scales.At(1), 0x1p-126);  // a normal number, so the code of 2^-149 is 0
  EXPECT_EQ(codes[128].bits, 0);
  EXPECT_EQ(codes[2 * 128].bits, 0x7e);
  EXPECT_EQ(codes[3 * 128].bits, 0x7f);
  EXPECT_EQ(codes[3 * 128 + 1].bits, 0x7e);
  EXPECT_EQ(codes[3 * 128 + 65].bits, 0x7f);
  EXPECT_TRUE(std::isnan(y.At(3 * 128)));
  EXPECT_EQ(y.At(3 * 128 + 1), 1.0);
  for (int64_t i = 0; i < 128; ++i) ASSERT_TRUE(std::isnan(y.At(4 * 128 + i))) << i;
}

// Bits, which comparing the codes' values would not tell apart.
TEST_P(BlockQuantizeTest, ANanKeepsItsSign) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const Tensor x({40, 128});
  for (int64_t i = 0; i < 128; ++i) x.SetAt(i, 1.0);
  x.SetAt(0, std::copysign(nan, -1.0));
  x.SetAt(1, nan);
  x.SetAt(20 * 128 + 5, infinity);
  x.SetAt(20 * 128 + 6, -infinity);
  const Rows rows(40, 128), wanted(40, 128);
  const Columns columns(40, 128), wanted_columns(40, 128), again(40, 128), wanted_again(40, 128);
  Quantize(stream(), {.x = x, .rows = rows, .columns = columns});
  Wait();
  reference::Quantize({.x = x, .rows = wanted, .columns = wanted_columns});
  RequantizeColumns(stream(), {.rows = wanted, .columns = again});
  Wait();
  reference::RequantizeColumns({.rows = wanted, .columns = wanted_again});
  const auto bits = [](const Tensor& codes, int64_t i) {
    return static_cast<int>(codes.view().data<E4M3>()[i].bits);
  };
  EXPECT_EQ(bits(rows.codes, 0), 0xff);
  EXPECT_EQ(bits(rows.codes, 1), 0x7f);
  for (int64_t i = 0; i < 40 * 128; ++i) {
    ASSERT_EQ(bits(rows.codes, i), bits(wanted.codes, i)) << i;
    ASSERT_EQ(bits(columns.codes, i), bits(wanted_columns.codes, i)) << i;
    // (0 times infinity is a NaN whose sign is the processor's.)
    ASSERT_EQ(bits(again.codes, i) & 0x7f, bits(wanted_again.codes, i) & 0x7f) << i;
  }
}

TEST_P(BlockQuantizeTest, NanCountsForNothingInAColumn) {
  const Tensor x({3, 16});
  x.SetAt(0, 1.0);
  x.SetAt(16, std::nanf(""));
  const Columns columns(3, 16);
  Quantize(stream(), {.x = x, .columns = columns});
  Wait();
  EXPECT_EQ(columns.scales.At(0), 1.0f / 448.0f);
  EXPECT_EQ(columns.codes.view().data<E4M3>()[0].bits, 0x7e);
  EXPECT_EQ(columns.codes.view().data<E4M3>()[16].bits, 0x7f);
}

TEST_P(BlockQuantizeTest, WireRowsAreCodesThenExponentsThenZeros) {
  EXPECT_EQ(WireRowBytes(7168), 7232);
  EXPECT_EQ(WireRowBytes(2048), 2064);
  for (int64_t columns : {16, 256, 272}) {
    const Tensor x = Spread({9, columns}, DType::kBF16, 7);
    const Rows rows(9, columns), back(9, columns);
    QuantizeOptions options{.format = ScaleFormat::kPowerOfTwo};
    Quantize(stream(), {.x = x, .rows = rows, .options = options});
    const Tensor wire = Tensor::Unwritten({9, WireRowBytes(columns)}, DType::kU8);
    PackWireRows(stream(), {.rows = rows, .wire = wire});
    UnpackWireRows(stream(), {.rows = back, .wire = wire});
    Wait();
    EXPECT_TRUE(Same(back.codes, rows.codes));
    EXPECT_TRUE(Same(back.scales, rows.scales));
    const uint8_t* last = wire.view().data<uint8_t>() + 8 * WireRowBytes(columns);
    EXPECT_EQ(last[0], rows.codes.view().data<E4M3>()[8 * columns].bits);
    EXPECT_EQ(std::ldexp(1.0, last[columns] - 127), rows.scales.At(8 * NumTiles(columns)));
    for (int64_t i = columns + NumTiles(columns); i < WireRowBytes(columns); ++i) {
      EXPECT_EQ(last[i], 0) << i;
    }
  }
}

TEST_P(BlockQuantizeTest, StatsCountUnderflowsAndClips) {
  const Tensor x({2, 128});
  x.SetAt(0, 448);
  x.SetAt(1, 0x1p-11);  // scale 1: below half of 2^-9
  x.SetAt(2, 1.5);
  x.SetAt(128, -7);
  const Rows rows(2, 128);
  Quantize(stream(), {.x = x, .rows = rows});
  Wait();
  rows.scales.SetAt(1, 0.01);  // as if the scale were an old one: -7 is 700 now
  QuantizationStats stats;
  AddQuantizationStats(stream(), {.x = x, .rows = rows, .stats = &stats});
  AddQuantizationStats(stream(), {.x = x, .rows = rows, .stats = &stats});
  Wait();
  EXPECT_EQ(stats.amax, 448);
  EXPECT_EQ(stats.count, 512);
  EXPECT_EQ(stats.underflows, 2);
  EXPECT_EQ(stats.clipped, 2);
}

// Of rows with tiles of their own, then of a weight whose blocks are cut elsewhere than every 128:
// amax and counts are those of a loop over the elements.
TEST_P(BlockQuantizeTest, StatsKnowTheTilesOfRowsAndWeights) {
  constexpr int64_t kTiles[] = {0, 128, 172, 300, 344};
  const Tensor tiles = Ints({0, 128, 172, 300, 344});
  const auto tile_of = [&](int64_t i) {
    return std::upper_bound(std::begin(kTiles), std::end(kTiles), i) - std::begin(kTiles) - 1;
  };
  QuantizationStats of_rows, wanted_rows, of_weight, wanted_weight;
  const auto add = [](double x, const Tensor& codes, int64_t i, double scale,
                      QuantizationStats& to) {
    to.amax = std::max(to.amax, std::abs(x));
    to.underflows += x != 0 && codes.At(i) == 0;
    to.clipped += std::abs(x) >= 464 * scale;  // scales are powers of two: exact
    ++to.count;
  };
  const QuantizeOptions options{.format = ScaleFormat::kPowerOfTwo};

  const Tensor x = Spread({5, 344}, DType::kBF16, 1, 3);
  const Rows rows(5, 344, 4, 5);
  Quantize(stream(), {.x = x, .rows = rows, .tiles = tiles, .options = options});
  Wait();
  rows.scales.SetAt(2 * 4 + 1, 0x1p-14);  // as if of older values: row 2, columns 128 to 171
  AddQuantizationStats(stream(), {.x = x, .rows = rows, .tiles = tiles, .stats = &of_rows});
  Wait();
  for (int64_t i = 0; i < 5 * 344; ++i) {
    add(x.At(i), rows.codes, i, rows.scales.At(i / 344 * 4 + tile_of(i % 344)), wanted_rows);
  }

  const Shape shape = {2, 344, 130};
  const Tensor w = Spread(shape, DType::kF32, 3);
  const Weight weight(shape, tiles);
  QuantizeWeight(stream(), {.w = w, .weight = weight, .options = options});
  Wait();
  weight.scales.SetAt((4 + 2) * 2 + 1, 0x1p-14);  // expert 1, rows 172 to 299, columns 128 and 129
  AddWeightStats(stream(), {.w = w, .weight = weight, .stats = &of_weight});
  Wait();
  for (int64_t i = 0; i < w.num_elements(); ++i) {
    const int64_t expert = i / (344 * 130), row = i / 130 % 344, column = i % 130;
    const int64_t block = (expert * 4 + tile_of(row)) * 2 + column / 128;
    add(w.At(i), weight.codes, i, weight.scales.At(block), wanted_weight);
  }

  for (const auto& [found, wanted] :
       {std::pair(of_rows, wanted_rows), std::pair(of_weight, wanted_weight)}) {
    EXPECT_EQ(found.amax, wanted.amax);
    EXPECT_EQ(found.count, wanted.count);
    EXPECT_EQ(found.underflows, wanted.underflows);
    EXPECT_EQ(found.clipped, wanted.clipped);
    EXPECT_GT(wanted.underflows, 0);
    EXPECT_GT(wanted.clipped, 0);
  }
}

TEST(WeightScales, ShapesAreThoseOfTheReleasedFiles) {
  const auto vectors = Vectors("fp8_weight_scale_shapes.json");
  for (const char* list : {"deepseek_v3", "ragged_examples"}) {
    ASSERT_FALSE(vectors[list].empty());
    for (const auto& test : vectors[list]) {
      EXPECT_EQ(NumTiles(test["weight"][0]), test["weight_scale_inv"][0]) << test;
      EXPECT_EQ(NumTiles(test["weight"][1]), test["weight_scale_inv"][1]) << test;
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
