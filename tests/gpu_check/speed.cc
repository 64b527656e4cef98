// TFLOP/s of the products and of attention at DeepSeek-V3's shapes, beside the floor: the slower of
// arithmetic and memory by NVIDIA's data sheet of the H100 SXM; products beside cuBLASLt, where it
// is installed. Nothing passes or fails by time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <ostream>
#include <string>

#include "kernels/ops/attention.h"
#include "kernels/ops/block_quantize.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/matmul.h"
#include "kernels/vendor/cublaslt_matmul.h"
#include "tests/gpu_check/gpu_check.h"
#include "tests/gpu_check/timing.h"
#include "tests/support/attention_tensors.h"

namespace sluice::kernels {
namespace {

using testing::Numbers;
using testing::Tensor;

constexpr double kFp8Flops = 1979e12, kBf16Flops = 989e12;

struct SpeedCase {
  const char* name;
  int64_t rows, columns, depth;
};
constexpr SpeedCase kProducts[] = {
    {"tiny", 128, 128, 128},           {"q_a + kv_a", 4096, 2112, 7168},
    {"q_b", 4096, 24576, 1536},        {"kv_b", 4096, 32768, 512},
    {"o", 4096, 7168, 16384},          {"dense gate + up", 4096, 36864, 7168},
    {"dense down", 4096, 7168, 18432}, {"shared gate + up", 4096, 4096, 7168},
    {"shared down", 4096, 7168, 2048}};

double Work(const SpeedCase& c) {
  return static_cast<double>(c.rows) * static_cast<double>(c.columns) *
         static_cast<double>(c.depth);
}
double Elements(const SpeedCase& c) {
  return static_cast<double>(c.rows * c.depth + c.columns * c.depth);
}

class Speed : public testing::SpeedTest {
 protected:
  void SetUp() override {
    SpeedTest::SetUp();
    if (testing::IsSoftwareDevice()) return;  // it cannot run closed libraries
    auto created = vendor::CublasLt::Create();
    if (created.ok()) {
      peer_ = *std::move(created);
      std::printf("peer: cuBLASLt %s\n", peer_->Version().c_str());
    } else {
      std::printf("no peer: %s\n", std::string(created.status().message()).c_str());
    }
  }
  void TearDown() override {
    peer_.reset();
    SpeedTest::TearDown();
  }

  // cuBLASLt's time for the same product, and how far its result is from ours.
  void ReportPeer(const SpeedCase& c, DType operands, const vendor::DensePointers& pointers,
                  const Tensor& ours) {
    if (peer_ == nullptr) return;
    const Tensor result(ours.shape(), DType::kBF16);
    vendor::DensePointers to = pointers;
    to.c = result.view().raw_mutable_data();
    const vendor::DenseProduct product = {.m = c.rows,
                                          .n = c.columns,
                                          .k = c.depth,
                                          .operands = operands,
                                          .result = DType::kBF16,
                                          .a_row = c.depth,
                                          .b_row = c.depth,
                                          .c_row = c.columns};
    absl::Status status = peer_->Run(product, to, stream());
    if (!status.ok()) {
      std::printf("  %s\n", std::string(status.message()).c_str());
      return;
    }
    const double bytes = operands == DType::kBF16 ? 2 : 1;
    Report("  by cuBLASLt", 2 * Work(c),
           bytes * Elements(c) + 2.0 * static_cast<double>(c.rows * c.columns),
           operands == DType::kBF16 ? kBf16Flops : kFp8Flops,
           [&] { status.Update(peer_->Run(product, to, stream())); });
    ASSERT_TRUE(status.ok()) << status;
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < ours.num_elements(); i += 997) {
      worst = std::max(worst, std::abs(ours.At(i) - result.At(i)));
      largest = std::max(largest, std::abs(ours.At(i)));
    }
    std::printf("  differs from ours by %.3g at most; the largest is %.3g\n", worst, largest);
  }

 private:
  std::unique_ptr<vendor::CublasLt> peer_;
};
INSTANTIATE_ON_EVERY_DEVICE(Speed);

TEST_P(Speed, ProductsInBF16) {
  for (const SpeedCase& c : kProducts) {
    if (IsTooMuchHere(Work(c))) continue;
    const Tensor x = Numbers({c.rows, c.depth}, DType::kBF16);
    const Tensor w = Numbers({c.columns, c.depth}, DType::kBF16);
    const Tensor y({c.rows, c.columns}, DType::kBF16);
    const Tensor storage({static_cast<int64_t>(PackedBytes(1, c.depth, c.columns, DType::kBF16))},
                         DType::kU8);
    const PackedMatrix packed = {1, c.depth, c.columns, DType::kBF16, storage};
    PackMatrix(stream(), {.b = w, .transpose = true, .packed = packed});
    Report(std::string("bf16 ") + c.name, 2 * Work(c),
           2 * Elements(c) + 2.0 * static_cast<double>(c.rows * c.columns), kBf16Flops,
           [&] { PackedMatmul(stream(), {.a = x, .b = packed, .c = y}); });
    ReportPeer(c, DType::kBF16, {.a = x.view().raw_data(), .b = w.view().raw_data()}, y);
  }
}

TEST_P(Speed, ProductsInFp8) {
  for (const SpeedCase& c : kProducts) {
    if (IsTooMuchHere(Work(c))) continue;
    const int64_t blocks = NumTiles(c.depth), row_blocks = NumTiles(c.columns);
    const Tensor x = Numbers({c.rows, c.depth}, DType::kE4M3);
    const Tensor scales = Numbers({c.rows, blocks}, DType::kF32);
    const Tensor w = Numbers({1, c.columns, c.depth}, DType::kE4M3);
    const Tensor w_scales = Numbers({1, row_blocks, blocks}, DType::kF32);
    const Tensor transposed({1, c.depth, c.columns}, DType::kE4M3);
    const Tensor transposed_scales({1, blocks, row_blocks});
    const Tensor y({c.rows, c.columns}, DType::kBF16);
    const Fp8MatmulArgs args = {
        .a = {x, scales}, .w = {w, w_scales, transposed, transposed_scales, {}}, .c = y};
    Report(std::string("fp8 ") + c.name, 2 * Work(c),
           Elements(c) + 2.0 * static_cast<double>(c.rows * c.columns), kFp8Flops,
           [&] { Fp8Matmul(stream(), args); });
    // All scales are 1, so the other order in which cuBLASLt wants a's does not show.
    ReportPeer(c, DType::kE4M3,
               {.a = x.view().raw_data(),
                .b = w.view().raw_data(),
                .a_scales = scales.view().data<float>(),
                .b_scales = w_scales.view().data<float>()},
               y);
  }
}

// Four experts of DeepSeek-V3 on one GPU, 8192 rows each: nothing of cuBLASLt's is like it.
constexpr int64_t kExperts = 4;
constexpr SpeedCase kExpertProducts[] = {{"tiny experts", 64, 128, 128},
                                         {"experts, gate + up", 32768, 4096, 7168},
                                         {"experts, down", 32768, 7168, 2048}};

Tensor EqualGroups(int64_t rows) {
  Tensor offsets({kExperts + 1}, DType::kI32);
  for (int64_t e = 0; e <= kExperts; ++e) {
    offsets.SetAt(e, static_cast<double>(rows / kExperts * e));
  }
  return offsets;
}
double BytesOfExperts(const SpeedCase& c, double element) {
  return element * static_cast<double>(c.rows * c.depth + kExperts * c.columns * c.depth) +
         2.0 * static_cast<double>(c.rows * c.columns);
}
// The gradient is read and written in FP32.
double BytesOfWeightGradient(const SpeedCase& c, double element) {
  return element * static_cast<double>(c.rows * (c.columns + c.depth)) +
         8.0 * static_cast<double>(kExperts * c.columns * c.depth);
}

TEST_P(Speed, ProductsOfExpertsInBF16) {
  for (const SpeedCase& c : kExpertProducts) {
    if (IsTooMuchHere(Work(c))) continue;
    const Tensor offsets = EqualGroups(c.rows);
    const Tensor x = Numbers({c.rows, c.depth}, DType::kBF16);
    const Tensor y = Numbers({c.rows, c.columns}, DType::kBF16);
    {
      // Packed on a GPU are the rows of [E, N, K].
      const Tensor storage({2 * kExperts * c.columns * c.depth}, DType::kU8);
      const Tensor w = Numbers({kExperts, c.columns, c.depth}, DType::kBF16);
      std::memcpy(storage.view().raw_mutable_data(), w.view().raw_data(), w.view().bytes());
      const PackedMatrix packed = {kExperts, c.depth, c.columns, DType::kBF16, storage};
      Report(std::string("bf16 ") + c.name, 2 * Work(c), BytesOfExperts(c, 2), kBf16Flops,
             [&] { GroupedMatmul(stream(), {.x = x, .w = packed, .offsets = offsets, .y = y}); });
    }
    const Tensor dw({kExperts, c.columns, c.depth});
    Report(
        std::string("bf16 dw ") + c.name, 2 * Work(c), BytesOfWeightGradient(c, 2), kBf16Flops,
        [&] { GroupedWeightGradient(stream(), {.dy = y, .x = x, .offsets = offsets, .dw = dw}); });
  }
}

TEST_P(Speed, ProductsOfExpertsInFp8) {
  for (const SpeedCase& c : kExpertProducts) {
    if (IsTooMuchHere(Work(c))) continue;
    const int64_t blocks = NumTiles(c.depth), row_blocks = NumTiles(c.columns);
    const Tensor offsets = EqualGroups(c.rows);
    {
      const Tensor x = Numbers({c.rows, c.depth}, DType::kE4M3);
      const Tensor scales = Numbers({c.rows, blocks}, DType::kF32);
      const Tensor w = Numbers({kExperts, c.columns, c.depth}, DType::kE4M3);
      const Tensor w_scales = Numbers({kExperts, row_blocks, blocks}, DType::kF32);
      const Tensor transposed({kExperts, c.depth, c.columns}, DType::kE4M3);
      const Tensor transposed_scales({kExperts, blocks, row_blocks});
      const Tensor y({c.rows, c.columns}, DType::kBF16);
      const Fp8MatmulArgs args = {.a = {x, scales},
                                  .w = {w, w_scales, transposed, transposed_scales, {}},
                                  .offsets = offsets,
                                  .c = y};
      Report(std::string("fp8 ") + c.name, 2 * Work(c), BytesOfExperts(c, 1), kFp8Flops,
             [&] { Fp8Matmul(stream(), args); });
    }
    if (!ReadsTransposedColumns(stream())) continue;
    const int64_t codes = NumColumnCodes(c.rows, kExperts);
    const int64_t tiles = NumColumnTiles(c.rows, kExperts);
    const Tensor dy = Numbers({c.columns, codes}, DType::kE4M3);
    const Tensor x = Numbers({c.depth, codes}, DType::kE4M3);
    const Tensor dy_scales = Numbers({tiles, c.columns}, DType::kF32);
    const Tensor x_scales = Numbers({tiles, c.depth}, DType::kF32);
    const Tensor dw({kExperts, c.columns, c.depth});
    const Fp8WeightGradientArgs args = {
        .dy = {dy, dy_scales, true}, .x = {x, x_scales, true}, .offsets = offsets, .dw = dw};
    Report(std::string("fp8 dw ") + c.name, 2 * Work(c), BytesOfWeightGradient(c, 1), kFp8Flops,
           [&] { Fp8WeightGradient(stream(), args); });
  }
}

struct AttentionShape {
  const char* name;
  int64_t tokens, heads, qk, v;
};
constexpr AttentionShape kAttention[] = {{"tiny", 64, 1, 64, 64},
                                         {"deepseek_v3, 4096 tokens", 4096, 128, 192, 128}};

TEST_P(Speed, AttentionForwardAndBackward) {
  for (const AttentionShape& s : kAttention) {
    // Half of the pairs of tokens: causal.
    const double pairs = 0.5 * static_cast<double>(s.tokens) * static_cast<double>(s.tokens) *
                         static_cast<double>(s.heads);
    if (IsTooMuchHere(pairs * static_cast<double>(s.qk + s.v))) continue;
    const Shape q_shape = {s.tokens, s.heads, s.qk}, v_shape = {s.tokens, s.heads, s.v};
    testing::AttentionTensors t;
    t.q = Numbers(q_shape, DType::kBF16), t.k = Numbers(q_shape, DType::kBF16);
    t.v = Numbers(v_shape, DType::kBF16), t.dout = Numbers(v_shape, DType::kBF16);
    t.starts = Tensor::Of({0, static_cast<int>(s.tokens)});
    t.o = Tensor(v_shape, DType::kBF16), t.log_sum_exp = Tensor({s.tokens, s.heads});
    const auto scratch_bytes = static_cast<int64_t>(
        AttentionScratchBytes(stream(), s.tokens, s.heads, s.heads, s.qk, s.v));
    t.scratch = Tensor({scratch_bytes}, DType::kU8);
    t.scale = 0.07f;
    const double q_bytes = 2.0 * static_cast<double>(t.q.num_elements());
    const double v_bytes = 2.0 * static_cast<double>(t.v.num_elements());
    Report(std::string("attention ") + s.name, 2 * pairs * static_cast<double>(s.qk + s.v),
           2 * q_bytes + 2 * v_bytes, kBf16Flops, [&] { Attention(stream(), t.Forward()); });
    t.dq = Tensor(q_shape, DType::kBF16), t.dk = Tensor(q_shape, DType::kBF16);
    t.dv = Tensor(v_shape, DType::kBF16);
    // Scores and their gradient once, and three products more.
    Report(std::string("attention backward ") + s.name,
           2 * pairs * static_cast<double>(3 * s.qk + 2 * s.v), 4 * q_bytes + 4 * v_bytes,
           kBf16Flops, [&] { AttentionBackward(stream(), t.Backward()); });
  }
}

}  // namespace
}  // namespace sluice::kernels
