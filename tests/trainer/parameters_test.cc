#include "trainer/model/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/rank_model.h"

namespace sluice::trainer {
namespace {

// Two groups, a fused parameter whose second piece begins inside its named tensor, a tied copy, and
// sizes that are no multiple of anything.
class ParameterStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_.AddTensor("a", {3, 7});
    store_.AddNorm("n", 5);
    Parameter fused;
    fused.shape = {11, 3};
    fused.pieces = {{"x", {4, 3}, 0, 0, 12}, {"y", {9, 3}, 6, 12, 21}};
    store_.Add(std::move(fused));
    Parameter experts;
    experts.shape = {2, 2, 5};
    experts.group = ParameterGroup::kExpert;
    experts.pieces = {{"e.0", {2, 5}, 0, 0, 10}, {"e.1", {2, 5}, 0, 10, 10}};
    store_.Add(std::move(experts));
    store_.AddTensor("copy", {1, 13}).tied_copy = true;
    const int64_t multiple_of[kNumParameterGroups] = {3, 2};
    ASSERT_TRUE(store_.Allocate(*device_, DType::kBF16, multiple_of).ok());
  }

  std::unique_ptr<kernels::DeviceContext> device_ = *kernels::DeviceContext::Create({});
  ParameterStore store_;
};

TEST_F(ParameterStoreTest, LaysOutAlignedWithoutOverlapAndPadsForTheShards) {
  EXPECT_EQ(store_.flat_size(ParameterGroup::kDense) % 3, 0);
  EXPECT_EQ(store_.flat_size(ParameterGroup::kExpert) % 2, 0);
  EXPECT_EQ(store_.num_elements(), 21 + 5 + 33 + 20);  // a copy is not counted
  std::map<ParameterGroup, int64_t> end;
  for (const auto& parameter : store_.parameters()) {
    EXPECT_GE(parameter->offset, end[parameter->group]);
    end[parameter->group] = parameter->offset + parameter->shape.num_elements();
    EXPECT_LE(end[parameter->group], store_.flat_size(parameter->group));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(parameter->value.raw_data()) % 64, 0u);
    EXPECT_EQ(parameter->gradient.raw_data(),
              store_.gradients(parameter->group).data<float>() + parameter->offset);
    EXPECT_EQ(parameter->gradient.shape(), parameter->shape);
    EXPECT_EQ(parameter->value.dtype(), DType::kBF16);
  }
}

TEST_F(ParameterStoreTest, RunsCoverEveryElementOnceForAnyCut) {
  std::map<std::string, int64_t> expected = {{"a", 21},   {"n", 5},    {"x", 12},   {"y", 27},
                                             {"e.0", 10}, {"e.1", 10}, {"copy", 13}};
  for (const int64_t step : {1, 2, 7, 31, 32, 33, 64, 1000}) {
    std::map<std::string, std::vector<int64_t>> place;  // of every element in its flat array
    for (auto& [name, count] : expected) place[name].assign(count, -1);
    for (const ParameterGroup group : {ParameterGroup::kDense, ParameterGroup::kExpert}) {
      for (int64_t begin = 0; begin < store_.flat_size(group); begin += step) {
        const int64_t end = std::min(begin + step, store_.flat_size(group));
        store_.ForEachRun(group, begin, end,
                          [&](const Parameter& parameter, const NamedPiece& piece,
                              int64_t named_begin, int64_t flat_begin, int64_t count) {
                            EXPECT_EQ(parameter.group, group);
                            EXPECT_GT(count, 0);
                            EXPECT_GE(flat_begin, begin);
                            EXPECT_LE(flat_begin + count, end);
                            for (int64_t i = 0; i < count; ++i) {
                              int64_t& element = place[piece.name].at(named_begin + i);
                              EXPECT_EQ(element, -1) << piece.name << " " << named_begin + i;
                              element = flat_begin + i;
                            }
                          });
      }
    }
    for (const auto& [name, elements] : place) {
      const int64_t first = name == "y" ? 6 : 0;  // this store has only a part of y
      const Parameter& parameter = *store_.Find(name);
      for (int64_t i = 0; i < static_cast<int64_t>(elements.size()); ++i) {
        if (i < first) {
          EXPECT_EQ(elements[i], -1);
          continue;
        }
        const int64_t offset = name == "y" ? 12 : name == "e.1" ? 10 : 0;
        EXPECT_EQ(elements[i], parameter.offset + offset + i - first) << name << " " << i;
      }
    }
  }
  EXPECT_EQ(store_.Find("z"), nullptr);
}

// A matrix and an embedding decay and begin as normal numbers; a norm does not decay and begins
// at 1. (The gates' bias is no parameter: the optimizer never sees it.)
TEST(ParametersOfAModel, DecayUnlessTheyAreNorms) {
  RunConfig config = SmallConfig("FP32");
  config.mutable_model()->set_initializer_range(0.03);
  const auto resolved = Resolve(config, 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const auto world = parallel::CreateSelfCommunicator();
  const auto device = *kernels::DeviceContext::Create({});
  const auto model = RankModel::Create(*resolved, {.world = world.get(), .device = device.get()});
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_TRUE((*model)->InitializeWeights().ok());
  int norms = 0, matrices = 0;
  for (const auto& parameter : (*model)->store().parameters()) {
    for (const NamedPiece& piece : parameter->pieces) {
      EXPECT_EQ(piece.name.find("e_score_correction_bias"), std::string::npos);
      const bool is_norm = piece.shape.size() == 1;
      (is_norm ? norms : matrices) += 1;
      EXPECT_EQ(parameter->decay, !is_norm) << piece.name;
      double squares = 0;
      const float* values = parameter->value.data<float>() + piece.offset;
      for (int64_t i = 0; i < piece.count; ++i) {
        squares += std::pow(is_norm ? values[i] - 1 : values[i] / 0.03, 2);
      }
      // n normal numbers: the variance within 5 sqrt(2 / n).
      const double n = static_cast<double>(piece.count);
      EXPECT_NEAR(squares / n, is_norm ? 0 : 1, is_norm ? 0 : 5 * std::sqrt(2 / n)) << piece.name;
    }
  }
  EXPECT_GT(norms, 20);
  EXPECT_GT(matrices, 100);
}

TEST(InitialValues, DoNotDependOnTheRange) {
  constexpr int64_t kCount = 101;
  std::vector<float> whole(kCount);
  InitialValues(7, "some.weight", false, 0.02, 0, kCount, whole.data());
  for (const int64_t begin : {0, 1, 2, 50, 99, 100}) {
    for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{3}, kCount - begin}) {
      if (begin + count > kCount) continue;
      std::vector<float> part(count);
      InitialValues(7, "some.weight", false, 0.02, begin, count, part.data());
      for (int64_t i = 0; i < count; ++i) EXPECT_EQ(part[i], whole[begin + i]);
    }
  }
}

TEST(InitialValues, DoNotDependOnTheThreads) {
  constexpr int64_t kCount = (1 << 18) + 3, kBegin = 5;
  std::vector<float> alone(kCount), together(kCount);
  InitialValues(7, "some.weight", false, 0.02, kBegin, kCount, alone.data());
  kernels::ThreadPool pool(3);
  InitialValues(pool, 7, "some.weight", false, 0.02, kBegin, kCount, together.data());
  EXPECT_EQ(together, alone);
}

// n normal numbers: mean within 5 / sqrt(n), variance within 5 sqrt(2 / n), fourth moment 3 within
// 5 sqrt(96 / n), neighbours uncorrelated within 5 / sqrt(n).
TEST(InitialValues, AreNormalAndIndependent) {
  constexpr int64_t kCount = 40000;
  constexpr double kDeviation = 0.02;
  const double root = std::sqrt(static_cast<double>(kCount));
  std::vector<float> x(kCount), other_name(kCount), other_seed(kCount);
  InitialValues(7, "a", false, kDeviation, 0, kCount, x.data());
  InitialValues(7, "b", false, kDeviation, 0, kCount, other_name.data());
  InitialValues(8, "a", false, kDeviation, 0, kCount, other_seed.data());
  const auto moment = [&](const std::vector<float>& a, const std::vector<float>& b, int64_t shift) {
    double sum = 0;
    for (int64_t i = 0; i < kCount; ++i)
      sum += static_cast<double>(a[i]) * b[(i + shift) % kCount] / (kDeviation * kDeviation);
    return sum / static_cast<double>(kCount);
  };
  double mean = 0, fourth = 0;
  for (float value : x) {
    mean += value / kDeviation / kCount;
    fourth += std::pow(value / kDeviation, 4) / kCount;
    EXPECT_LT(std::abs(value), 7 * kDeviation);  // u1 >= 2^-32 gives at most 6.7 deviations
  }
  EXPECT_NEAR(mean, 0, 5 / root);
  EXPECT_NEAR(moment(x, x, 0), 1, 5 * std::sqrt(2.0) / root);
  EXPECT_NEAR(fourth, 3, 5 * std::sqrt(96.0) / root);
  EXPECT_NEAR(moment(x, x, 1), 0, 5 / root);
  EXPECT_NEAR(moment(x, x, 2), 0, 5 / root);
  EXPECT_NEAR(moment(x, other_name, 0), 0, 5 / root);
  EXPECT_NEAR(moment(x, other_seed, 0), 0, 5 / root);
}

TEST(InitialValues, NormsAreOne) {
  float values[3] = {};
  InitialValues(7, "norm", true, 0.02, 5, 3, values);
  for (float value : values) EXPECT_EQ(value, 1.0f);
}

}  // namespace
}  // namespace sluice::trainer
