// The products of kernels/ops by wgmma (hopper_matmul.cuh) have the bits of those by mma.sync
// (matmul.cu, fp8_matmul.cu) on the software device, which adds as many products at a time in both;
// where every sum is exact both have the bits of FP32's multiply-adds; and which shapes are done
// which way.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/hopper_ops.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels::cuda {
namespace {

using testing::Same;
using testing::Tensor;

class MatmulAgreementTest : public testing::EveryDevice {
 protected:
  // What `run(stream, c)` adds to or writes in place of `start`, by mma.sync.
  template <typename Run>
  Tensor ByMma(const Tensor& start, const Run& run) {
    Wait();
    const Tensor c = start.Clone();
    CudaStream mma(stream().device(), {.only_mma_sync = true});
    run(mma, c);
    EXPECT_TRUE(mma.Synchronize().ok());
    return c;
  }
  Tensor Offsets(const std::vector<int>& values) {
    const Tensor tensor({static_cast<int64_t>(values.size())}, DType::kI32);
    for (size_t i = 0; i < values.size(); ++i) tensor.SetAt(static_cast<int64_t>(i), values[i]);
    return tensor;
  }
  // Of E4M3, for the quantiser to write.
  static Tensor Codes(const Shape& shape) { return Tensor::Unwritten(shape, DType::kE4M3); }
  PackedMatrix Pack(const Tensor& w, Tensor& storage) {
    PackedMatrix packed{w.shape()[0], w.shape()[2], w.shape()[1], DType::kBF16, {}};
    storage = Tensor::Unwritten(
        {static_cast<int64_t>(PackedBytes(packed.num_matrices, packed.k, packed.n, packed.dtype))},
        DType::kU8);
    packed.storage = storage;
    PackMatrix(stream(), {.b = w, .transpose = true, .packed = packed});
    return packed;
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, MatmulAgreementTest, ::testing::ValuesIn(testing::AllDevices()),
                         [](const auto& info) { return info.param.name; });

constexpr int64_t kIn = 72, kOut = 136;  // no multiple of a tile
const std::vector<int> kRowsOfExperts = {0, 0, 37, 38, 150, 150};

TEST_P(MatmulAgreementTest, PackedProducts) {
  const Tensor a = Tensor::Random({67, kIn}, DType::kBF16, 1, -1, 1, 8);
  const Tensor w = Tensor::Random({1, kOut, kIn}, DType::kBF16, 2);
  Tensor storage;
  const PackedMatrix packed = Pack(w, storage);
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const bool accumulate = dtype == DType::kF32;
    const Tensor start = Tensor::Random({67, kOut}, dtype, 3, -1, 1, accumulate ? 1 : 4);
    const Tensor c = start.Clone();
    ASSERT_TRUE(
        PackedMatmulByWgmma(stream(), {.a = a, .b = packed, .c = c, .accumulate = accumulate}));
    EXPECT_TRUE(Same(c, ByMma(start, [&](Stream& s, const Tensor& c) {
                       PackedMatmul(s, {.a = a, .b = packed, .c = c, .accumulate = accumulate});
                     })));
    EXPECT_TRUE(c.PaddingIsUntouched());
  }
}

TEST_P(MatmulAgreementTest, ProductsOfColumns) {
  const Tensor dy = Tensor::Random({75, kOut}, DType::kBF16, 1);
  const Tensor x = Tensor::Random({75, kIn}, DType::kBF16, 2, -1, 1, 16);
  const Tensor start = Tensor::Random({kOut, kIn}, DType::kF32, 3);
  const auto args = [&](const Tensor& c) {
    return MatmulArgs{.a = dy, .b = x, .c = c, .transpose_a = true, .accumulate = true};
  };
  const Tensor c = start.Clone();
  ASSERT_TRUE(MatmulByWgmma(stream(), args(c)));
  EXPECT_TRUE(Same(c, ByMma(start, [&](Stream& s, const Tensor& c) { Matmul(s, args(c)); })));
}

TEST_P(MatmulAgreementTest, ProductsOfExperts) {
  const Tensor offsets = Offsets(kRowsOfExperts);
  const int64_t rows = kRowsOfExperts.back(), experts = std::ssize(kRowsOfExperts) - 1;
  const Tensor x = Tensor::Random({rows, kIn}, DType::kBF16, 1);
  const Tensor dy = Tensor::Random({rows, kOut}, DType::kBF16, 2);
  const Tensor w = Tensor::Random({experts, kOut, kIn}, DType::kBF16, 3);
  Tensor storage;
  const PackedMatrix packed = Pack(w, storage);
  const Tensor unwritten = Tensor::Unwritten({rows, kOut}, DType::kBF16), y = unwritten.Clone();
  const auto args = [&](const Tensor& y) {
    return GroupedMatmulArgs{.x = x, .w = packed, .offsets = offsets, .y = y};
  };
  ASSERT_TRUE(GroupedMatmulByWgmma(stream(), args(y)));
  EXPECT_TRUE(
      Same(y, ByMma(unwritten, [&](Stream& s, const Tensor& y) { GroupedMatmul(s, args(y)); })));

  // Two of the experts: the rows of the others, infinite here, are read beside theirs and do not
  // matter.
  for (const Tensor* t : {&x, &dy}) {
    for (int64_t i = 0; i < t->num_elements(); ++i) {
      const int64_t row = i / t->shape()[1];
      if (row >= kRowsOfExperts[3]) t->SetAt(i, INFINITY);
    }
  }
  const Tensor start = Tensor::Random({2, kOut, kIn}, DType::kF32, 4), dw = start.Clone();
  const auto gradient = [&](const Tensor& dw) {
    return GroupedWeightGradientArgs{
        .dy = dy, .x = x, .offsets = offsets.view().Rows(1, 3), .dw = dw};
  };
  ASSERT_TRUE(GroupedWeightGradientByWgmma(stream(), gradient(dw)));
  EXPECT_TRUE(Same(dw, ByMma(start, [&](Stream& s, const Tensor& dw) {
                     GroupedWeightGradient(s, gradient(dw));
                   })));
  EXPECT_TRUE(std::isfinite(dw.At(0)));
}

TEST_P(MatmulAgreementTest, ProductsOfCodesOfExperts) {
  const std::vector<int> rows_of_experts = {0, 0, 37, 165, 170};
  const Tensor offsets = Offsets(rows_of_experts);
  const int64_t rows = rows_of_experts.back(), experts = std::ssize(rows_of_experts) - 1;
  constexpr int64_t kWidth = 144;
  const Tensor x = Tensor::Random({rows, kWidth}, DType::kBF16, 1);
  const Tensor dy = Tensor::Random({rows, kOut}, DType::kBF16, 2);
  const Tensor w = Tensor::Random({experts, kOut, kWidth}, DType::kBF16, 3);
  const Tensor codes = Codes({rows, kWidth}), scales = Tensor::Unwritten({rows, 2});
  const Tensor w_codes = Codes(w.shape()), w_scales = Tensor::Unwritten({experts, 2, 2});
  const Tensor w_transposed = Codes({experts, kWidth, kOut});
  const Tensor w_transposed_scales = Tensor::Unwritten({experts, 2, 2});
  const QuantizedWeight weight{w_codes, w_scales, w_transposed, w_transposed_scales, {}};
  const int64_t padded = NumColumnCodes(rows, experts), tiles = NumColumnTiles(rows, experts);
  const Tensor x_columns = Codes({kWidth, padded}), x_scales = Tensor::Unwritten({tiles, kWidth});
  const Tensor dy_columns = Codes({kOut, padded}), dy_scales = Tensor::Unwritten({tiles, kOut});
  const QuantizedColumns of_x{x_columns, x_scales, true}, of_dy{dy_columns, dy_scales, true};
  Quantize(stream(), {.x = x, .rows = {codes, scales}, .columns = of_x, .offsets = offsets});
  Quantize(stream(), {.x = dy, .columns = of_dy, .offsets = offsets});
  QuantizeWeight(stream(), {.w = w, .weight = weight});

  const Tensor unwritten = Tensor::Unwritten({rows, kOut}, DType::kBF16), y = unwritten.Clone();
  const auto args = [&](const Tensor& y) {
    return Fp8MatmulArgs{{codes, scales}, weight, Fp8Direction::kForward, offsets, y};
  };
  ASSERT_TRUE(Fp8MatmulByWgmma(stream(), args(y)));
  EXPECT_TRUE(
      Same(y, ByMma(unwritten, [&](Stream& s, const Tensor& y) { Fp8Matmul(s, args(y)); })));

  const Tensor start = Tensor::Random({experts, kOut, kWidth}, DType::kF32, 4), dw = start.Clone();
  const auto gradient = [&](const Tensor& dw) {
    return Fp8WeightGradientArgs{of_dy, of_x, offsets, dw};
  };
  ASSERT_TRUE(Fp8WeightGradientByWgmma(stream(), gradient(dw)));
  EXPECT_TRUE(Same(
      dw, ByMma(start, [&](Stream& s, const Tensor& dw) { Fp8WeightGradient(s, gradient(dw)); })));
}

// Integers up to 8 are numbers of BF16 and of E4M3, and their sums are exact in any order: the
// tensor cores' two instructions and FP32's multiply-adds (matmul.cu's third kernel) agree.
TEST_P(MatmulAgreementTest, ExactProductsHaveTheBitsOfFp32) {
  constexpr int64_t kRows = 67, kK = 272;
  const Tensor a = Tensor::RandomIntegers({kRows, kK}, DType::kF32, 1, -8, 8);
  const Tensor w = Tensor::RandomIntegers({1, kOut, kK}, DType::kF32, 2, -8, 8);
  const Tensor unwritten = Tensor::Unwritten({kRows, kOut});
  const Tensor wanted = unwritten.Clone(), halves = unwritten.Clone(), codes = unwritten.Clone();
  const auto args = [&](const Tensor& a, const Tensor& w, const Tensor& c) {
    return MatmulArgs{.a = a, .b = w.view().Reshape({kOut, kK}), .c = c, .transpose_b = true};
  };
  Matmul(stream(), args(a, w, wanted));

  const Tensor a_half = a.To(DType::kBF16), w_half = w.To(DType::kBF16);
  ASSERT_TRUE(MatmulByWgmma(stream(), args(a_half, w_half, halves)));
  EXPECT_TRUE(Same(
      ByMma(unwritten, [&](Stream& s, const Tensor& c) { Matmul(s, args(a_half, w_half, c)); }),
      wanted));
  EXPECT_TRUE(Same(halves, wanted));

  const auto ones = [](const Shape& shape) { return Tensor::Random(shape, DType::kF32, 1, 1, 1); };
  const Tensor a_codes = a.To(DType::kE4M3), a_scales = ones({kRows, 3});
  const Tensor w_codes = w.To(DType::kE4M3), w_scales = ones({1, 2, 3});
  const QuantizedWeight weight{w_codes, w_scales, {}, {}, {}};
  const auto of_codes = [&](const Tensor& c) {
    return Fp8MatmulArgs{{a_codes, a_scales}, weight, Fp8Direction::kForward, {}, c};
  };
  ASSERT_TRUE(Fp8MatmulByWgmma(stream(), of_codes(codes)));
  EXPECT_TRUE(Same(ByMma(unwritten, [&](Stream& s, const Tensor& c) { Fp8Matmul(s, of_codes(c)); }),
                   wanted));
  EXPECT_TRUE(Same(codes, wanted));
}

// mma.sync does the rest; the number of rows of `a` never decides.
TEST_P(MatmulAgreementTest, ShapesThatWgmmaDoesNotDo) {
  const Tensor a = Tensor::Random({5, 24}, DType::kBF16, 1);
  const Tensor odd = Tensor::Random({5, 23}, DType::kBF16, 1, -1, 1, 1);
  const Tensor b = Tensor::Random({9, 24}, DType::kBF16, 2);
  const Tensor c = Tensor::Unwritten({5, 9});
  const auto by_wgmma = [&](const ConstTensorView& a, const ConstTensorView& b) {
    return MatmulByWgmma(stream(), {.a = a, .b = b, .c = c, .transpose_b = true});
  };
  EXPECT_TRUE(by_wgmma(a, b));
  EXPECT_TRUE(MatmulByWgmma(
      stream(), {.a = a.view().Rows(0, 1), .b = b, .c = c.view().Rows(0, 1), .transpose_b = true}));
  const Tensor wide_c({5, 12});  // a result at no multiple of 16 bytes
  EXPECT_TRUE(MatmulByWgmma(
      stream(), {.a = a, .b = b, .c = wide_c.view().Columns(3, 9), .transpose_b = true}));
  EXPECT_FALSE(by_wgmma(odd, b.view().Columns(0, 23))) << "K";
  EXPECT_FALSE(by_wgmma(a.view().Columns(4, 16), b.view().Columns(0, 16))) << "address";
  EXPECT_TRUE(by_wgmma(a.view().Columns(8, 16), b.view().Columns(0, 16)));
  const Tensor wide = Tensor::Random({5, 24}, DType::kBF16, 1, -1, 1, 1);  // 25 elements a row
  EXPECT_FALSE(by_wgmma(wide, b)) << "stride";
  EXPECT_FALSE(MatmulByWgmma(
      stream(),
      {.a = a.To(DType::kF32).view(), .b = b.To(DType::kF32).view(), .c = c, .transpose_b = true}))
      << "FP32";
  Wait();
}

}  // namespace
}  // namespace sluice::kernels::cuda
