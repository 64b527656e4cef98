// What reports are made from.
#include "kernels/ops/compare.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels {
namespace {

using testing::Same;
using testing::Tensor;

class CompareTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(CompareTest);

TEST_P(CompareTest, SumsOfSquaresAreAddedToWhatIsThere) {
  const Tensor a = Tensor::Of({1, 2, 3, 4, 5, 6}, DType::kBF16, {2, 3});
  const Tensor b = Tensor::Of({1, 0, 3, 4, 8, 6}, DType::kF32, {2, 3});
  double difference = 100, norm = 1000;
  AddSquaredDifference(stream(), {.a = a, .b = b, .difference = &difference, .norm = &norm});
  Wait();
  EXPECT_EQ(difference, 100 + 4 + 9);
  EXPECT_EQ(norm, 1000 + 1 + 9 + 16 + 64 + 36);
}

// In one order on every device, so that the sums have the same bits. (The padding is NaN.)
TEST_P(CompareTest, SumsGoRowByRow) {
  for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{0, 5}, {37, 129}}) {
    const Tensor a = Tensor::Random({rows, columns}, DType::kBF16, 1, -1, 1, 3);
    const Tensor b = Tensor::Random({rows, columns}, DType::kF32, 2, -1, 1, 5);
    double difference = 0, norm = 0, wanted_difference = 0, wanted_norm = 0;
    AddSquaredDifference(stream(), {.a = a, .b = b, .difference = &difference, .norm = &norm});
    Wait();
    for (int64_t i = 0; i < rows * columns; ++i) {
      wanted_difference += (a.At(i) - b.At(i)) * (a.At(i) - b.At(i));
      wanted_norm += b.At(i) * b.At(i);
    }
    EXPECT_EQ(difference, wanted_difference);
    EXPECT_EQ(norm, wanted_norm);
  }
}

TEST_P(CompareTest, RowsAndColumnsAreSampledAtEvenDistances) {
  constexpr int64_t kRows[] = {0, 1, 3}, kColumns[] = {0, 2, 5, 8};  // 5 i / 3 and 11 j / 4
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kE4M3}) {
    const Tensor x = Tensor::RandomIntegers({5, 11}, DType::kF32, 1, -15, 15).To(dtype);
    const Tensor y = Tensor::Unwritten({3, 4}, dtype, 2), none({0, 11}, dtype);
    const Tensor of_columns = Tensor::Unwritten({5, 4}, dtype);
    const Tensor of_rows = Tensor::Unwritten({3, 11}, dtype);
    const Tensor all = Tensor::Unwritten({5, 11}, dtype, 1);
    for (const Tensor* to : {&y, &of_columns, &of_rows, &all, &none}) {
      Sample(stream(), {.x = x, .y = *to});
    }
    Wait();
    for (int64_t i = 0; i < 3 * 4; ++i) {
      EXPECT_EQ(y.At(i), x.At(kRows[i / 4] * 11 + kColumns[i % 4])) << i;
    }
    for (int64_t i = 0; i < 5 * 4; ++i) {
      EXPECT_EQ(of_columns.At(i), x.At(i / 4 * 11 + kColumns[i % 4])) << i;
    }
    for (int64_t i = 0; i < 3 * 11; ++i) {
      EXPECT_EQ(of_rows.At(i), x.At(kRows[i / 11] * 11 + i % 11)) << i;
    }
    EXPECT_TRUE(Same(all.To(dtype), x));
    EXPECT_TRUE(y.PaddingIsUntouched());
    EXPECT_TRUE(all.PaddingIsUntouched());
  }
}

// More columns than a block of any device has threads.
TEST_P(CompareTest, AWideRowIsSampledToItsEnd) {
  const Tensor x = Tensor::Random({2, 3000}, DType::kF32, 3);
  const Tensor y = Tensor::Unwritten({2, 1027});
  Sample(stream(), {.x = x, .y = y});
  Wait();
  for (int64_t i = 0; i < 2 * 1027; ++i) {
    ASSERT_EQ(y.At(i), x.At(i / 1027 * 3000 + i % 1027 * 3000 / 1027)) << i;
  }
}

}  // namespace
}  // namespace sluice::kernels
