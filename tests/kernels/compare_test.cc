// What reports are made from.
#include "kernels/ops/compare.h"

#include <gtest/gtest.h>

#include <memory>

#include "kernels/core/device.h"
#include "tests/support/near.h"
#include "tests/support/tensor.h"

namespace sluice::kernels {
namespace {

using testing::Same;
using testing::Tensor;

class CompareTest : public ::testing::Test {
 protected:
  Stream& stream() { return device_->stream(StreamRole::kCompute); }

 private:
  std::unique_ptr<DeviceContext> device_ = *DeviceContext::Create({});
};

TEST_F(CompareTest, SumsOfSquaresAreAddedToWhatIsThere) {
  const Tensor a = Tensor::Of({1, 2, 3, 4, 5, 6}, DType::kBF16, {2, 3});
  const Tensor b = Tensor::Of({1, 0, 3, 4, 8, 6}, DType::kF32, {2, 3});
  double difference = 100, norm = 1000;
  AddSquaredDifference(stream(), {.a = a, .b = b, .difference = &difference, .norm = &norm});
  ASSERT_TRUE(stream().Synchronize().ok());
  EXPECT_EQ(difference, 100 + 4 + 9);
  EXPECT_EQ(norm, 1000 + 1 + 9 + 16 + 64 + 36);
}

TEST_F(CompareTest, ColumnsAreSampledAtEvenDistances) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kE4M3}) {
    const Tensor x = Tensor::RandomIntegers({5, 11}, DType::kF32, 1, -15, 15).To(dtype);
    const Tensor y({5, 4}, dtype, 2), expected({5, 4}, dtype), all({5, 11}, dtype);
    SampleColumns(stream(), {.x = x, .y = y});
    SampleColumns(stream(), {.x = x, .y = all});
    ASSERT_TRUE(stream().Synchronize().ok());
    constexpr int64_t kColumns[] = {0, 2, 5, 8};  // 11 j / 4
    for (int64_t i = 0; i < 5 * 4; ++i) expected.SetAt(i, x.At(i / 4 * 11 + kColumns[i % 4]));
    EXPECT_TRUE(Same(y.To(dtype), expected));
    EXPECT_TRUE(Same(all, x));
    EXPECT_TRUE(y.PaddingIsUntouched());
  }
}

}  // namespace
}  // namespace sluice::kernels
