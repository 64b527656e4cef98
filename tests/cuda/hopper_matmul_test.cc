// The Hopper matrix products against sums in double: every configuration, grouping, operand type
// and output, on full and on ragged shapes.
#include "kernels/cuda/hopper_matmul.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/cuda/rounding.h"
#include "tests/cuda/add_like.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int64_t kScaleBlock = 128;

// E4M3 by its definition: 4 exponent bits with bias 7, 3 mantissa bits, no infinities.
float ValueOfE4M3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    if (size_ == 0) return;
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* data() const { return data_; }
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

struct Case {
  std::string name;
  HopperMatmulShape shape;
  MatmulOutput output = MatmulOutput::kF32;
  std::vector<int32_t> offsets = {};  // of groups; kContracted: along K, without padding
  int64_t c_gap = 0;                  // elements between rows of c
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// Inputs as numbers and as the kernel reads them.
struct Problem {
  explicit Problem(const Case& c) : shape(c.shape), offsets(c.offsets) {
    const bool is_rows = shape.grouping == MatmulGrouping::kRows;
    b_rows = shape.n * (is_rows ? shape.num_groups : 1);
    steps = shape.k_parts * CeilDiv(shape.k / shape.k_parts, kScaleBlock);
    a = Fill(shape.m);
    b = Fill(b_rows);
    for (int64_t i = 0; i < steps * RoundUp(shape.m, 4); ++i) a_scales.push_back(Scale());
    const int64_t b_scale_count =
        shape.operands == MatmulOperands::kFp8Columns
            ? steps * RoundUp(shape.n, 4)
            : (is_rows ? shape.num_groups : 1) * CeilDiv(shape.n, kScaleBlock) * steps;
    for (int64_t i = 0; i < b_scale_count; ++i) b_scales.push_back(Scale());
  }

  float Scale() { return std::ldexp(1.0f + static_cast<float>(random() % 1024) / 1024, -6); }

  bool is_contracted() const { return shape.grouping == MatmulGrouping::kContracted; }
  int64_t CountOf(size_t group) const { return offsets[group + 1] - offsets[group]; }
  // Where group g begins along K.
  int64_t BeginOf(size_t group) const {
    if (is_bf16()) return offsets[group];
    return kScaleBlock * (offsets[group] / kScaleBlock + static_cast<int64_t>(group));
  }

  // Groups of codes are padded with zeros to 128; what is in no tile is never read, nor are rows of
  // no group.
  enum class Kind : uint8_t { kValue, kZero, kNan };
  Kind KindOf(int64_t k) const {
    if (!is_contracted()) return Kind::kValue;
    for (size_t g = 0; g + 1 < offsets.size(); ++g) {
      const int64_t at = k - BeginOf(g), count = CountOf(g);
      if (at >= 0 && at < count) return Kind::kValue;
      if (!is_bf16() && at >= 0 && at < RoundUp(count, kScaleBlock)) return Kind::kZero;
    }
    return Kind::kNan;
  }

  std::vector<uint8_t> Fill(int64_t rows) {
    std::vector<uint8_t> codes(static_cast<size_t>(rows * shape.k * (is_bf16() ? 2 : 1)));
    for (int64_t i = 0; i < rows * shape.k; ++i) {
      const Kind kind = KindOf(is_transposed() ? i / rows : i % shape.k);
      if (is_bf16()) {
        const BFloat16 value = kind == Kind::kNan ? ToBFloat16(NAN) : ToBFloat16(normal(random));
        std::memcpy(&codes[static_cast<size_t>(2 * i)], &value, 2);
      } else {
        uint8_t code = static_cast<uint8_t>(random() & 0xff);
        if (kind == Kind::kZero || (code & 0x7f) == 0x7f) code = 0;
        if (kind == Kind::kNan) code = 0x7f;
        codes[static_cast<size_t>(i)] = code;
      }
    }
    return codes;
  }

  bool is_transposed() const { return shape.operands == MatmulOperands::kBF16Columns; }
  bool is_bf16() const { return shape.operands == MatmulOperands::kBF16 || is_transposed(); }
  double ValueOf(const std::vector<uint8_t>& codes, int64_t rows, int64_t row, int64_t k) const {
    const int64_t at = is_transposed() ? k * rows + row : row * shape.k + k;
    if (!is_bf16()) return ValueOfE4M3(codes[static_cast<size_t>(at)]);
    BFloat16 value;
    std::memcpy(&value, &codes[static_cast<size_t>(2 * at)], 2);
    return ToFloat(value);
  }
  double ScaleOf(int64_t row, int64_t column, int64_t group, int64_t step) const {
    if (is_bf16()) return 1;
    const double a_scale = a_scales[static_cast<size_t>(step * RoundUp(shape.m, 4) + row)];
    const int64_t at =
        shape.operands == MatmulOperands::kFp8Columns
            ? step * RoundUp(shape.n, 4) + column
            : (group * CeilDiv(shape.n, kScaleBlock) + column / kScaleBlock) * steps + step;
    return a_scale * b_scales[static_cast<size_t>(at)];
  }

  HopperMatmulShape shape;
  std::vector<int32_t> offsets;
  std::mt19937 random{7};
  std::normal_distribution<float> normal;
  int64_t b_rows = 0, steps = 0;
  std::vector<uint8_t> a, b;
  std::vector<float> a_scales, b_scales;
};

// Where k lies: in which step, and how far in its group or part.
struct PlaceOnK {
  int64_t step = 0, inside = 0;
};
PlaceOnK PlaceOf(const HopperMatmulShape& s, int64_t begin, int64_t k) {
  if (s.k_parts == 1) return {k / kScaleBlock, k - begin};
  const int64_t part = s.k / s.k_parts, inside = k % part;
  return {k / part * CeilDiv(part, kScaleBlock) + inside / kScaleBlock, inside};
}

struct Expected {
  double value = 0, magnitude = 0;  // of the sum, and of its terms' absolute values
  double truncated = 0;             // what tensor cores that truncate may lose of it
};

// An instruction adds 32 products of codes, or 16 of BF16, to an accumulator. Hopper aligns these
// 33 (17) terms to the largest and keeps 13 (25) bits behind its first, so that each loses less
// than 2^-13 (2^-25) of the largest; and it cuts the sum to 14 (24) bits. (Codes: DeepSeek-V3
// report, section 3.3.2; both: tests/cuda_double/exec/tensor_sum.h.)
class TruncatedSum {
 public:
  explicit TruncatedSum(bool is_bf16) : is_bf16_(is_bf16) {}
  int64_t terms() const { return is_bf16_ ? 16 : 32; }
  void Add(double product) {
    sum_ += product;
    largest_ = std::max(largest_, std::fabs(product));
  }
  void EndInstruction() {
    const double of_term = is_bf16_ ? 0x1p-25 : 0x1p-13, of_sum = is_bf16_ ? 0x1p-23 : 0x1p-13;
    loss_ += static_cast<double>(terms() + 1) * of_term * std::max(largest_, accumulator_ + loss_);
    accumulator_ = std::fabs(sum_);
    loss_ += of_sum * (accumulator_ + loss_);
    largest_ = 0;
  }
  double loss() const { return loss_; }

 private:
  bool is_bf16_;
  double sum_ = 0, largest_ = 0;       // so far; of the instruction
  double accumulator_ = 0, loss_ = 0;  // before the instruction, its magnitude; so far
};

Expected Reference(const Problem& p, int64_t row, int64_t column, int64_t group) {
  const HopperMatmulShape& s = p.shape;
  const bool is_rows = s.grouping == MatmulGrouping::kRows;
  const auto g = static_cast<size_t>(group);
  const int64_t begin = p.is_contracted() ? p.BeginOf(g) : 0;
  const int64_t end = begin + (p.is_contracted() ? p.CountOf(g) : s.k);
  Expected sum;
  TruncatedSum step(p.is_bf16());
  for (int64_t k = begin; k < end; ++k) {
    const double product = p.ValueOf(p.a, s.m, row, k) *
                           p.ValueOf(p.b, p.b_rows, column + (is_rows ? group * s.n : 0), k);
    const PlaceOnK place = PlaceOf(s, begin, k);
    const double scale = p.ScaleOf(row, column, group, place.step);
    sum.value += product * scale;
    sum.magnitude += std::fabs(product * scale);
    step.Add(product);
    const int64_t done = place.inside + 1;
    const bool ends = k + 1 == end || PlaceOf(s, begin, k + 1).inside == 0;
    if (done % step.terms() == 0 || ends) step.EndInstruction();
    if ((done % kScaleBlock == 0 && !p.is_bf16()) || ends) {
      sum.truncated += step.loss() * scale;
      step = TruncatedSum(p.is_bf16());
    }
  }
  return sum;
}

class HopperMatmulTest : public ::testing::TestWithParam<Case> {
 protected:
  // The result as bytes; `old` fills c before.
  std::vector<uint8_t> Run(const Problem& p, const HopperMatmulConfig& config, float old) {
    const Case& c = GetParam();
    const int64_t stride = c.shape.n + c.c_gap;
    const int64_t groups = c.shape.grouping == MatmulGrouping::kContracted ? c.shape.num_groups : 1;
    const int64_t count = groups * c.shape.m * stride;
    std::vector<uint8_t> filled(static_cast<size_t>(count) * (is_bf16_output() ? 2 : 4));
    for (int64_t i = 0; i < count; ++i) {
      const BFloat16 half = ToBFloat16(old);
      if (is_bf16_output()) {
        std::memcpy(&filled[static_cast<size_t>(2 * i)], &half, 2);
      } else {
        std::memcpy(&filled[static_cast<size_t>(4 * i)], &old, 4);
      }
    }
    const DeviceArray<uint8_t> a(p.a), b(p.b), result(filled);
    const DeviceArray<float> a_scales(p.a_scales), b_scales(p.b_scales);
    const DeviceArray<int32_t> offsets(c.offsets);
    const absl::Status status = HopperMatmul(nullptr,
                                             {.shape = c.shape,
                                              .output = c.output,
                                              .a = a.data(),
                                              .b = b.data(),
                                              .a_scales = a_scales.data(),
                                              .a_scale_row = 1,
                                              .a_scale_step = RoundUp(c.shape.m, 4),
                                              .b_scales = b_scales.data(),
                                              .offsets = offsets.data(),
                                              .c = result.data(),
                                              .c_stride = stride},
                                             config);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return result.Read();
  }
  bool is_bf16_output() const { return GetParam().output == MatmulOutput::kBF16; }

  float Element(const std::vector<uint8_t>& c, int64_t at) const {
    if (!is_bf16_output()) {
      float value;
      std::memcpy(&value, &c[static_cast<size_t>(4 * at)], 4);
      return value;
    }
    BFloat16 value;
    std::memcpy(&value, &c[static_cast<size_t>(2 * at)], 2);
    return ToFloat(value);
  }

  void TearDown() override { AddLike(-1); }

  // Steps are added in FP32 with one rounding each, scales multiplied with one more; a BF16
  // operand's products are added 16 at a time. BF16 output rounds once more.
  double Bound(const Expected& e, double value) const {
    const HopperMatmulShape& s = GetParam().shape;
    const double roundings = static_cast<double>(CeilDiv(s.k, 16)) + 3;
    return roundings * std::ldexp(1.0, -24) * (e.magnitude + std::fabs(value)) +
           (truncates_ ? e.truncated : 0) +
           (is_bf16_output() ? std::ldexp(std::fabs(value) + e.truncated, -8) : 0);
  }

  void Compare(const Problem& p, const std::vector<uint8_t>& result, float old) {
    const Case& c = GetParam();
    const int64_t stride = c.shape.n + c.c_gap;
    const bool is_contracted = c.shape.grouping == MatmulGrouping::kContracted;
    double worst = 0;
    for (int64_t group = 0; group < (is_contracted ? c.shape.num_groups : 1); ++group) {
      for (int64_t row = 0; row < c.shape.m; ++row) {
        const int64_t expert =
            c.shape.grouping == MatmulGrouping::kRows
                ? std::upper_bound(c.offsets.begin(), c.offsets.end(), row) - c.offsets.begin() - 1
                : group;
        for (int64_t column = 0; column < c.shape.n; ++column) {
          Expected expected = Reference(p, row, column, expert);
          if (c.output == MatmulOutput::kAddToF32) expected.value += old;
          const double found = Element(result, (group * c.shape.m + row) * stride + column);
          const double bound = Bound(expected, expected.value);
          const double error = std::fabs(found - expected.value);
          worst = std::max(worst, bound > 0 ? error / bound : error);
          ASSERT_LE(error, bound) << "group " << group << " row " << row << " column " << column
                                  << ": found " << found << ", wanted " << expected.value;
        }
        for (int64_t column = c.shape.n; column < stride; ++column) {
          ASSERT_EQ(Element(result, (group * c.shape.m + row) * stride + column), old)
              << "written between rows, at row " << row;
        }
      }
    }
    RecordProperty("percent_of_bound", std::to_string(100 * worst));
  }

  void CheckEveryConfiguration();

  bool truncates_ = false;
};

TEST_P(HopperMatmulTest, EveryConfigurationGivesTheSumAndTheSameBits) {
  truncates_ = !AddLike(0);
  CheckEveryConfiguration();
}

TEST_P(HopperMatmulTest, SoItDoesWhereTheTensorCoresTruncate) {
  truncates_ = true;
  if (!AddLike(1)) GTEST_SKIP() << "a GPU always does";
  CheckEveryConfiguration();
}

void HopperMatmulTest::CheckEveryConfiguration() {
  const Problem p(GetParam());
  std::vector<uint8_t> first;
  for (const int block_m : {64, 128}) {
    for (const int block_n : {64, 128, 192, 256}) {
      HopperMatmulConfig config = ChooseHopperMatmul(p.shape, 3).value();
      config.block_m = block_m;
      config.block_n = block_n;
      config.num_threads = 128 + 2 * block_m;
      config.num_stages = block_m == 64 ? 2 : 3;
      config.num_blocks = block_n == 64 ? 5 : 2;
      config.shared_bytes =
          HopperMatmulSharedBytes(p.shape.operands, block_m, block_n, config.num_stages);
      SCOPED_TRACE(config.ToString());
      const float old = 0.5f;  // exact in every type
      const std::vector<uint8_t> result = Run(p, config, old);
      if (first.empty()) {
        first = result;
        Compare(p, result, old);
      }
      EXPECT_TRUE(result == first) << "other bits than the first configuration's";
      if (HasFatalFailure()) return;
    }
  }
}

HopperMatmulShape Shape(MatmulOperands operands, MatmulGrouping grouping, int64_t m, int64_t n,
                        int64_t k, int64_t groups = 1) {
  return {.operands = operands, .grouping = grouping, .m = m, .n = n, .k = k, .num_groups = groups};
}
HopperMatmulShape InParts(HopperMatmulShape shape, int64_t parts) {
  shape.k_parts = parts;
  return shape;
}

std::vector<Case> Fp8Cases() {
  constexpr auto kBlocks = MatmulOperands::kFp8Blocks;
  constexpr auto kColumns = MatmulOperands::kFp8Columns;
  constexpr auto kDense = MatmulGrouping::kDense;
  constexpr auto kRows = MatmulGrouping::kRows;
  constexpr auto kContracted = MatmulGrouping::kContracted;
  return {
      {"fp8_full", Shape(kBlocks, kDense, 128, 256, 384)},
      {"fp8_ragged", Shape(kBlocks, kDense, 67, 203, 144), MatmulOutput::kF32, {}, 1},
      {"fp8_bf16_out", Shape(kBlocks, kDense, 130, 72, 256), MatmulOutput::kBF16},
      {"fp8_wide", Shape(kBlocks, kDense, 9, 328, 256)},
      {"fp8_one_row", Shape(kBlocks, kDense, 1, 8, 16), MatmulOutput::kBF16},
      {"fp8_experts",
       Shape(kBlocks, kRows, 150, 136, 272, 5),
       MatmulOutput::kBF16,
       {0, 0, 37, 38, 150, 150}},
      {"fp8_parts", InParts(Shape(kBlocks, kDense, 67, 203, 2 * 208), 2)},
      {"fp8_short_parts", InParts(Shape(kBlocks, kDense, 20, 72, 3 * 80), 3), MatmulOutput::kBF16},
      {"fp8_parts_of_experts",
       InParts(Shape(kBlocks, kRows, 150, 136, 2 * 144, 4), 2),
       MatmulOutput::kBF16,
       {0, 37, 38, 38, 150}},
      {"fp8_columns", Shape(kColumns, kDense, 72, 92, 256), MatmulOutput::kAddToF32},
      {"fp8_weight_gradient",
       Shape(kColumns, kContracted, 72, 132, 128 * (520 / 128 + 4), 4),
       MatmulOutput::kAddToF32,
       {0, 250, 250, 379, 520}},
      {"fp8_weight_gradient_new",
       Shape(kColumns, kContracted, 68, 72, 128 * (256 / 128 + 3), 3),
       MatmulOutput::kF32,
       {0, 128, 128, 256}},
  };
}

std::vector<Case> BF16Cases() {
  constexpr auto kBF16 = MatmulOperands::kBF16, kColumns = MatmulOperands::kBF16Columns;
  return {
      {"bf16_full", Shape(kBF16, MatmulGrouping::kDense, 128, 256, 192)},
      {"bf16_ragged", Shape(kBF16, MatmulGrouping::kDense, 67, 203, 72), MatmulOutput::kBF16},
      {"bf16_experts",
       Shape(kBF16, MatmulGrouping::kRows, 150, 136, 136, 5),
       MatmulOutput::kBF16,
       {0, 0, 37, 38, 150, 150}},
      {"bf16_columns", Shape(kColumns, MatmulGrouping::kDense, 72, 136, 75), MatmulOutput::kBF16},
      {"bf16_weight_gradient",
       Shape(kColumns, MatmulGrouping::kContracted, 72, 136, 330, 4),
       MatmulOutput::kAddToF32,
       {3, 130, 130, 194, 321}},
      {"bf16_weight_gradient_new",
       Shape(kColumns, MatmulGrouping::kContracted, 200, 64, 90, 3),
       MatmulOutput::kF32,
       {0, 1, 1, 90}},
  };
}

std::string NameOf(const ::testing::TestParamInfo<Case>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Fp8, HopperMatmulTest, ::testing::ValuesIn(Fp8Cases()), NameOf);
INSTANTIATE_TEST_SUITE_P(BF16, HopperMatmulTest, ::testing::ValuesIn(BF16Cases()), NameOf);

}  // namespace
}  // namespace sluice::kernels::cuda
