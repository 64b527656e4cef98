// What the ops give to a library that serves their stream (kernels/cuda/libraries.h), and how
// scales are turned for it. The library here notes what it is given and computes nothing.
#include "kernels/cuda/libraries.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/hopper_ops.h"
#include "kernels/cuda/turn_scales.h"
#include "kernels/ops/attention.h"
#include "kernels/product_path.h"
#include "kernels/vendor/dense_product.h"
#include "tests/support/attention_tensors.h"
#include "tests/support/every_device.h"

namespace sluice::kernels::cuda {
namespace {

using ::testing::ElementsAre;
using testing::Tensor;

class NotedDense : public DenseLibrary {
 public:
  bool Takes(const HopperMatmulArgs& args) const override {
    return args.shape.grouping == MatmulGrouping::kDense &&
           args.shape.operands != MatmulOperands::kFp8Columns;
  }
  absl::Status Multiply(const HopperMatmulArgs& args, CudaStream&) override {
    shapes.push_back(args.shape);
    return fails ? absl::UnimplementedError("cuBLASLt: knows no algorithm") : absl::OkStatus();
  }
  std::string Name() const override { return "noted"; }
  std::vector<HopperMatmulShape> shapes;
  bool fails = false;
};

class NotedAttention : public AttentionLibrary {
 public:
  bool Takes(const AttentionArgs& args) const override { return args.sequence_length > 0; }
  absl::Status Attend(const AttentionArgs& args, CudaStream&) override {
    lengths.push_back(args.sequence_length);
    return absl::OkStatus();
  }
  std::string Name() const override { return "noted"; }
  std::vector<int64_t> lengths;
};

class LibrariesTest : public testing::EveryDevice {};
INSTANTIATE_TEST_SUITE_P(Devices, LibrariesTest, ::testing::Values(testing::AllDevices().front()),
                         [](const auto& info) { return info.param.name; });

TEST_P(LibrariesTest, DenseProductsGoToTheLibraryAndGroupsDoNot) {
  NotedDense library;
  CudaStream other(stream().device(), {.dense = &library});
  constexpr int64_t kRows = 8, kIn = 16, kOut = 24;
  const Tensor x = Tensor::Random({kRows, kIn}, DType::kBF16, 1);
  const Tensor w = Tensor::Random({kOut, kIn}, DType::kBF16, 2);
  const Tensor dy = Tensor::Random({kRows, kOut}, DType::kBF16, 3);
  const Tensor y({kRows, kOut}), dw({kOut, kIn}), dws({1, kOut, kIn});
  Matmul(other, {.a = x, .b = w, .c = y, .transpose_b = true});
  Matmul(other, {.a = dy, .b = x, .c = dw, .transpose_a = true, .accumulate = true});
  GroupedWeightGradient(
      other, {.dy = dy, .x = x, .offsets = Tensor::Of({0, static_cast<int>(kRows)}), .dw = dws});
  const Tensor x32 = x.To(DType::kF32), w32 = w.To(DType::kF32);
  Matmul(other, {.a = x32, .b = w32, .c = y, .transpose_b = true});
  ASSERT_TRUE(other.Synchronize().ok());
  ASSERT_EQ(library.shapes.size(), 2u);
  EXPECT_EQ(library.shapes[0].operands, MatmulOperands::kBF16);
  EXPECT_EQ(library.shapes[0].n, kOut);
  EXPECT_EQ(library.shapes[1].operands, MatmulOperands::kBF16Columns);
  EXPECT_EQ(library.shapes[1].k, kRows);
  // Its error ends the stream's work as our own would.
  library.fails = true;
  Matmul(other, {.a = x, .b = w, .c = y, .transpose_b = true});
  EXPECT_EQ(other.Synchronize().message(), "cuBLASLt: knows no algorithm");
}

TEST_P(LibrariesTest, AttentionOfEqualSequencesGoesToTheLibrary) {
  NotedAttention library;
  CudaStream other(stream().device(), {.attention = &library});
  testing::AttentionTensors t;
  t.starts = Tensor::Of({0, 4, 8});
  t.q = Tensor::Random({8, 1, 16}, DType::kBF16, 1);
  t.k = t.q, t.v = t.q;
  t.o = Tensor({8, 1, 16}, DType::kBF16), t.log_sum_exp = Tensor({8, 1});
  AttentionArgs args = t.Forward();
  Attention(other, args);
  EXPECT_THAT(library.lengths, ElementsAre());
  args.sequence_length = 4;
  Attention(other, args);
  EXPECT_THAT(library.lengths, ElementsAre(4));
  ASSERT_TRUE(other.Synchronize().ok());
}

TEST_P(LibrariesTest, ScalesAreTurned) {
  constexpr int64_t kRows = 70, kColumns = 5, kGap = 3;
  const Tensor from = Tensor::Random({kRows, kColumns}, DType::kF32, 1, 0, 1, kGap);
  const Tensor to({kColumns, kRows});
  TurnScales(stream(), {.from = from.view().data<float>(),
                        .to = to.view().mutable_data<float>(),
                        .rows = kRows,
                        .columns = kColumns,
                        .from_row = kColumns + kGap});
  Wait();
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kColumns; ++c) {
      ASSERT_EQ(to.At(c * kRows + r), from.At(r * kColumns + c)) << r << ", " << c;
    }
  }
}

// kernels/product_path.h is a second text of what the ops decide.
TEST_P(LibrariesTest, TheOpsTakeThePathThatIsPrinted) {
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{16, 24}, {12, 24}, {16, 20}, {8, 8}}) {
    const LinearOnGpu linear = {.dtype = DType::kBF16, .rows = 8, .in = in, .out = out};
    const Tensor x = Tensor::Random({8, in}, DType::kBF16, 1);
    const Tensor w = Tensor::Random({out, in}, DType::kBF16, 2);
    const Tensor dy = Tensor::Random({8, out}, DType::kBF16, 3);
    const Tensor y({8, out}), dw({out, in});
    const auto says_wgmma = [&](LinearProduct product) {
      return ProductPath(linear, product, MatmulKernels::kAuto).substr(0, 5) == "wgmma";
    };
    EXPECT_EQ(MatmulByWgmma(stream(), {.a = x, .b = w, .c = y, .transpose_b = true}),
              says_wgmma(LinearProduct::kForward))
        << in << ", " << out;
    EXPECT_EQ(MatmulByWgmma(stream(),
                            {.a = dy, .b = x, .c = dw, .transpose_a = true, .accumulate = true}),
              says_wgmma(LinearProduct::kWeightGradient))
        << in << ", " << out;
    Wait();
  }
}

}  // namespace
}  // namespace sluice::kernels::cuda
