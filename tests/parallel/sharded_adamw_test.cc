#include "parallel/shard/sharded_adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/ops/cast.h"
#include "kernels/reference/adamw.h"
#include "tests/support/near.h"
#include "tests/support/tensor.h"
#include "tests/support/thread_ranks.h"

namespace sluice::testing {
namespace {

using kernels::CpuStreamMode;
using kernels::DType;
using kernels::TensorView;
using parallel::FlatSegment;

constexpr int kMaxRanks = 4, kSteps = 3;

// What one run over P ranks leaves behind; shards are put together again.
struct Result {
  Tensor values, master, first, second;
  std::vector<double> sum_squares;  // of each step, over all ranks
};

struct Problem {
  int64_t n = 0;  // a multiple of kMaxRanks
  std::vector<FlatSegment> segments;
  Tensor values;     // [n] f32 | bf16
  Tensor gradients;  // [steps * kMaxRanks, n]: P ranks sum kMaxRanks / P of these each beforehand
  DType moment_dtype = DType::kF32;
  parallel::AdamWHyperparameters settings{.learning_rate = 0.01f, .gradient_scale = 0.25f};
};

// Gradient of `rank` of num_ranks at a step: an exact sum for integers and for num_ranks ==
// kMaxRanks.
Tensor GradientOf(const Problem& problem, int step, int rank, int num_ranks) {
  Tensor sum({problem.n});
  const int share = kMaxRanks / num_ranks;
  for (int i = rank * share; i < (rank + 1) * share; ++i) {
    for (int64_t j = 0; j < problem.n; ++j) {
      sum.SetAt(j, sum.At(j) + problem.gradients.At((step * kMaxRanks + i) * problem.n + j));
    }
  }
  return sum;
}

void CopyInto(const Tensor& whole, int64_t begin, kernels::ConstTensorView part) {
  for (int64_t i = 0; i < part.num_elements(); ++i) {
    whole.SetAt(begin + i, part.dtype() == DType::kF32
                               ? part.data<float>()[i]
                               : kernels::ToFloat(part.data<kernels::BFloat16>()[i]));
  }
}

Result RunSharded(const Problem& problem, int num_ranks,
                  CpuStreamMode mode = CpuStreamMode::kInline) {
  Result result;
  result.values = problem.values.Clone();
  result.master = Tensor({problem.n});
  result.first = Tensor({problem.n}, problem.moment_dtype);
  result.second = Tensor({problem.n}, problem.moment_dtype);
  std::vector<std::vector<double>> sums(num_ranks, std::vector<double>(kSteps));
  std::vector<Tensor> values(num_ranks);
  RunThreadRanks(
      num_ranks, mode, [&](parallel::Communicator& group, kernels::DeviceContext& device) {
        kernels::Stream& stream = device.stream(kernels::StreamRole::kCompute);
        const int rank = group.rank();
        values[rank] = problem.values.Clone();
        const Tensor gradients({problem.n});
        auto created =
            parallel::ShardedAdamW::Create(device, group, values[rank], gradients, problem.segments,
                                           {.moment_dtype = problem.moment_dtype});
        ASSERT_TRUE(created.ok()) << created.status();
        parallel::ShardedAdamW& optimizer = **created;
        EXPECT_EQ(optimizer.shard_begin(), problem.n / num_ranks * rank);
        EXPECT_EQ(optimizer.shard_end(), problem.n / num_ranks * (rank + 1));
        for (int step = 0; step < kSteps; ++step) {
          CopyInto(gradients, 0, GradientOf(problem, step, rank, num_ranks).view());
          ASSERT_TRUE(optimizer.ReduceGradients(stream).ok());
          ASSERT_TRUE(optimizer.SumSquares(stream, &sums[rank][step]).ok());
          parallel::AdamWHyperparameters settings = problem.settings;
          settings.step = step + 1;
          ASSERT_TRUE(optimizer.Step(settings, stream).ok());
        }
        ASSERT_TRUE(stream.Synchronize().ok());
        CopyInto(result.master, optimizer.shard_begin(), optimizer.master());
        CopyInto(result.first, optimizer.shard_begin(), optimizer.first_moment());
        CopyInto(result.second, optimizer.shard_begin(), optimizer.second_moment());
      });
  result.sum_squares.assign(kSteps, 0.0);
  for (int rank = 0; rank < num_ranks; ++rank) {
    EXPECT_TRUE(Same(values[rank], values[0])) << "rank " << rank << " holds other values";
    for (int step = 0; step < kSteps; ++step) result.sum_squares[step] += sums[rank][step];
  }
  result.values = values[0];
  return result;
}

// The whole array at once, by the reference op, with gradients added in rank order.
Result RunReference(const Problem& problem) {
  Result result;
  result.values = problem.values.Clone();
  result.master = problem.values.To(DType::kF32);
  result.first = Tensor({problem.n}, problem.moment_dtype);
  result.second = Tensor({problem.n}, problem.moment_dtype);
  for (int step = 0; step < kSteps; ++step) {
    const Tensor gradient = GradientOf(problem, step, 0, 1);
    for (const FlatSegment& segment : problem.segments) {
      if (!segment.trained || segment.begin == segment.end) continue;
      const auto part = [&](const Tensor& whole) {
        return whole.view().Rows(segment.begin, segment.end - segment.begin);
      };
      kernels::reference::AdamW(
          {.master = part(result.master),
           .gradient = part(gradient),
           .m = part(result.first),
           .v = part(result.second),
           .value = part(result.values),
           .gradient_scale = problem.settings.gradient_scale,
           .learning_rate = problem.settings.learning_rate,
           .beta1 = problem.settings.beta1,
           .beta2 = problem.settings.beta2,
           .eps = problem.settings.eps,
           .weight_decay = segment.decay ? problem.settings.weight_decay : 0.0f,
           .step = step + 1});
    }
  }
  return result;
}

// Segments that are empty, of one element, cross shard borders (n / 2, n / 4), leave gaps; one is
// not trained, one does not count, two neighbours differ in decay only.
std::vector<FlatSegment> UglySegments(int64_t n) {
  return {{.begin = 0, .end = 1, .decay = false},
          {.begin = 1, .end = 1},
          {.begin = 2, .end = n / 4 + 3},
          {.begin = n / 4 + 3, .end = n / 4 + 10, .decay = false},
          {.begin = n / 4 + 10, .end = n / 2 - 1, .trained = false},
          {.begin = n / 2, .end = n / 2 + 5},
          {.begin = n / 2 + 5, .end = n - 7, .counted_in_norm = false}};
}

Problem MakeProblem(int64_t n, DType value_dtype, DType moment_dtype, bool integers) {
  Problem problem;
  problem.n = n;
  problem.segments = UglySegments(n);
  problem.values = Tensor::Random({n}, value_dtype, 1);
  const kernels::Shape shape = {kSteps * kMaxRanks, n};
  // Real gradients are positive, so that no sum cancels and bounds can be relative.
  problem.gradients = integers ? Tensor::RandomIntegers(shape, DType::kF32, 2, -9, 9)
                               : Tensor::Random(shape, DType::kF32, 3, 0.1, 1.0);
  problem.moment_dtype = moment_dtype;
  return problem;
}

struct Types {
  DType value, moment;
};

class ShardedAdamW : public ::testing::TestWithParam<Types> {};

TEST_P(ShardedAdamW, BitsDoNotDependOnTheNumberOfRanks) {
  const Problem problem = MakeProblem(4 * 2501, GetParam().value, GetParam().moment, true);
  const Result want = RunSharded(problem, 1);
  for (const int num_ranks : {2, 4}) {
    SCOPED_TRACE(num_ranks);
    const Result got = RunSharded(problem, num_ranks);
    EXPECT_TRUE(Same(got.values, want.values));
    EXPECT_TRUE(Same(got.master, want.master));
    EXPECT_TRUE(Same(got.first, want.first));
    EXPECT_TRUE(Same(got.second, want.second));
    EXPECT_EQ(got.sum_squares, want.sum_squares);  // integers: exact
  }
  EXPECT_TRUE(Same(RunSharded(problem, 2, CpuStreamMode::kThreaded).values, want.values));
}

// Each of the steps moves a master by at most lr (1 + decay |master|) <= 1.2 lr, since gradients of
// one sign within a factor of 10 make |m / sqrt(v)| at most about 1 ... 1.2 after bias correction.
// The update itself has less than 32 FP32 roundings; BF16 moments may differ by one unit in the
// last place (2^-7 relative) where the two sides round a tie apart, which moves an update as much.
TEST_P(ShardedAdamW, EqualsTheReferenceWithinRounding) {
  const Problem problem = MakeProblem(4 * 501, GetParam().value, GetParam().moment, false);
  const Result want = RunReference(problem);
  const double lr = problem.settings.learning_rate;
  double update = kSteps * 32 * kF32Rounding * 1.5 * lr;
  if (GetParam().moment == DType::kBF16) update += kSteps * 0x1p-7 * 1.5 * lr;
  for (const int num_ranks : {1, 2, 4}) {
    SCOPED_TRACE(num_ranks);
    const Result got = RunSharded(problem, num_ranks);
    const double masters = kSteps * kF32Rounding;
    EXPECT_TRUE(Near(got.master, want.master, {.absolute = update, .relative = masters}));
    const double rounding = GetParam().value == DType::kBF16 ? OneUlp(DType::kBF16) : 0.0;
    EXPECT_TRUE(
        Near(got.values, want.values, {.absolute = update, .relative = masters + rounding}));
    const double moments =
        GetParam().moment == DType::kBF16 ? 2 * OneUlp(DType::kBF16) : 32 * kF32Rounding;
    EXPECT_TRUE(Near(got.first, want.first, {.relative = moments}));
    EXPECT_TRUE(Near(got.second, want.second, {.relative = moments}));
  }
}

TEST_P(ShardedAdamW, LeavesPaddingAndUntrainedElementsAlone) {
  const Problem problem = MakeProblem(4 * 101, GetParam().value, GetParam().moment, true);
  std::vector<bool> trained(problem.n, false);
  for (const FlatSegment& segment : problem.segments) {
    for (int64_t i = segment.begin; i < segment.end; ++i) trained[i] = segment.trained;
  }
  for (const int num_ranks : {1, 2, 4}) {
    const Result got = RunSharded(problem, num_ranks);
    for (int64_t i = 0; i < problem.n; ++i) {
      if (trained[i]) {
        EXPECT_NE(got.master.At(i), problem.values.At(i)) << i;
      } else {
        ASSERT_EQ(got.values.At(i), problem.values.At(i)) << i;
        ASSERT_EQ(got.first.At(i), 0) << i;
      }
    }
  }
}

TEST_P(ShardedAdamW, NormCountsEachElementOnceAndOnlyThoseThatCount) {
  const Problem problem = MakeProblem(4 * 2501, GetParam().value, GetParam().moment, true);
  const Result got = RunSharded(problem, 4);
  for (int step = 0; step < kSteps; ++step) {
    const Tensor gradient = GradientOf(problem, step, 0, 1);
    double want = 0;
    for (const FlatSegment& segment : problem.segments) {
      for (int64_t i = segment.begin; segment.counted_in_norm && i < segment.end; ++i) {
        want += gradient.At(i) * gradient.At(i);
      }
    }
    EXPECT_EQ(got.sum_squares[step], want) << step;
  }
}

TEST_P(ShardedAdamW, PublishMastersReachesEveryRank) {
  const int64_t n = 4 * 33;
  const Tensor masters = Tensor::Random({n}, DType::kF32, 5), want = masters.To(GetParam().value);
  for (const int num_ranks : {1, 2, 4}) {
    RunThreadRanks(
        num_ranks, CpuStreamMode::kThreaded,
        [&](parallel::Communicator& group, kernels::DeviceContext& device) {
          const Tensor values({n}, GetParam().value), gradients({n});
          auto optimizer = parallel::ShardedAdamW::Create(device, group, values, gradients, {}, {});
          ASSERT_TRUE(optimizer.ok());
          kernels::Stream& stream = device.stream(kernels::StreamRole::kCompute);
          kernels::Cast(stream,
                        {.from = masters.view().Rows((*optimizer)->shard_begin(), n / group.size()),
                         .to = (*optimizer)->master()});
          ASSERT_TRUE((*optimizer)->PublishMasters(stream).ok());
          EXPECT_TRUE(Same(values, want));
        });
  }
}

INSTANTIATE_TEST_SUITE_P(Types, ShardedAdamW,
                         ::testing::Values(Types{DType::kF32, DType::kF32},
                                           Types{DType::kF32, DType::kBF16},
                                           Types{DType::kBF16, DType::kF32},
                                           Types{DType::kBF16, DType::kBF16}));

TEST(ShardedAdamWAverage, FollowsTheMastersOnAnyNumberOfRanks) {
  const Problem problem = MakeProblem(64, DType::kBF16, DType::kF32, /*integers=*/false);
  for (const int ranks : {1, 4}) {
    RunThreadRanks(
        ranks, CpuStreamMode::kInline,
        [&](parallel::Communicator& group, kernels::DeviceContext& device) {
          kernels::Stream& stream = device.stream(kernels::StreamRole::kCompute);
          const Tensor values = problem.values.Clone(), gradients({problem.n});
          auto created = parallel::ShardedAdamW::Create(device, group, values, gradients,
                                                        problem.segments, {.average_decay = 0.75f});
          ASSERT_TRUE(created.ok()) << created.status();
          parallel::ShardedAdamW& optimizer = **created;
          ASSERT_TRUE(optimizer.ResetAverage(stream).ok());
          const int64_t n = optimizer.master().num_elements();
          const float *master = optimizer.master().data<float>(),
                      *average = optimizer.average().data<float>();
          std::vector<float> wanted(master, master + n);
          for (int step = 0; step < kSteps; ++step) {
            CopyInto(gradients, 0, GradientOf(problem, step, group.rank(), ranks).view());
            ASSERT_TRUE(optimizer.ReduceGradients(stream).ok());
            parallel::AdamWHyperparameters settings = problem.settings;
            settings.step = step + 1;
            ASSERT_TRUE(optimizer.Step(settings, stream).ok());
            for (int64_t i = 0; i < n; ++i) {
              float& w = wanted[static_cast<size_t>(i)];
              w += 0.25f * (master[i] - w);
              ASSERT_EQ(average[i], w) << "element " << i << " after step " << step;
            }
          }
          EXPECT_NE(average[2], master[2]);
        });
  }
}

TEST(ShardedAdamWAverage, NoneWithoutADecay) {
  RunThreadRanks(1, CpuStreamMode::kInline,
                 [&](parallel::Communicator& group, kernels::DeviceContext& device) {
                   auto optimizer = parallel::ShardedAdamW::Create(device, group, Tensor({8}),
                                                                   Tensor({8}), {}, {});
                   ASSERT_TRUE(optimizer.ok());
                   EXPECT_TRUE((*optimizer)->average().is_null());
                   kernels::Stream& stream = device.stream(kernels::StreamRole::kCompute);
                   EXPECT_TRUE((*optimizer)->ResetAverage(stream).ok());
                 });
}

// Masters begin as the values; no element, no segment and no norm are legal.
TEST(ShardedAdamWCreate, MastersBeginAsTheValues) {
  const Tensor values = Tensor::Random({8}, DType::kBF16, 6);
  RunThreadRanks(
      2, CpuStreamMode::kInline,
      [&](parallel::Communicator& group, kernels::DeviceContext& device) {
        const Tensor mine = values.Clone(), gradients({8}), nothing({0}, DType::kBF16);
        auto optimizer = parallel::ShardedAdamW::Create(device, group, mine, gradients, {}, {});
        ASSERT_TRUE(optimizer.ok());
        for (int64_t i = 0; i < 4; ++i) {
          EXPECT_EQ((*optimizer)->master().data<float>()[i], values.At(4 * group.rank() + i));
        }
        auto empty = parallel::ShardedAdamW::Create(device, group, nothing, Tensor({0}), {}, {});
        ASSERT_TRUE(empty.ok());
        kernels::Stream& stream = device.stream(kernels::StreamRole::kCompute);
        double sum = 1;
        ASSERT_TRUE((*empty)->ReduceGradients(stream).ok());
        ASSERT_TRUE((*empty)->SumSquares(stream, &sum).ok());
        EXPECT_EQ(sum, 0);
        ASSERT_TRUE((*empty)->Step({}, stream).ok());
      });
}

}  // namespace
}  // namespace sluice::testing
