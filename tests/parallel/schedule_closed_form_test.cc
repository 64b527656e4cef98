// Bubbles and peaks of live activations against their closed forms.   P ranks, n microbatches,
// v chunks; F, I, W the durations of one chunk's forward and of the two halves of its backward
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/parallel/schedule_testing.h"

namespace sluice::parallel {
namespace {

using internal::Durations;
using testing::RankTiming;
using testing::TimeOf;

constexpr Durations kUnits = {1, 1, 1};
constexpr Durations kCheapWeights = {2, 2, 1};
constexpr Durations kUneven = {2, 3, 1};  // F = 1, I = 1.5, W = 0.5

class ClosedForm : public ::testing::TestWithParam<Durations> {
 protected:
  const int64_t f_ = GetParam().forward, i_ = GetParam().backward_input,
                w_ = GetParam().backward_weight, b_ = i_ + w_;
};

// GPipe: Huang et al. 2019; all ranks wait for one full pass up and down; all n are alive.
TEST_P(ClosedForm, GPipe) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const int n : {1, 2, 7, 12, 32}) {
      for (const RankTiming& rank : TimeOf(MakeGPipe({ranks, n, 1}).value(), GetParam())) {
        EXPECT_EQ(rank.idle, (ranks - 1) * (f_ + b_));
        EXPECT_EQ(rank.peak_live, n);
      }
    }
  }
}

// PipeDream-Flush: the same bubble; rank r holds P - r.
TEST_P(ClosedForm, OneFOneB) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const int n : {1, 2, 7, 12, 32}) {
      const std::vector<RankTiming> timing = TimeOf(Make1F1B({ranks, n, 1}).value(), GetParam());
      for (int rank = 0; rank < ranks; ++rank) {
        EXPECT_EQ(timing[rank].idle, (ranks - 1) * (f_ + b_)) << ranks << " " << n;
        EXPECT_EQ(timing[rank].peak_live, std::min(n, ranks - rank));
      }
    }
  }
}

// Narayanan et al. 2021, section 2.2: (P - 1)(F + B) / v with F and B of all v chunks of a rank, so
// (P - 1)(F + B) in durations of one chunk. The peak is its forwards ahead of the steady state and
// one more.
TEST_P(ClosedForm, Interleaved) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const int n : {ranks, 2 * ranks, 5 * ranks}) {
      for (const int chunks : {2, 3, 4}) {
        const auto timing = TimeOf(MakeInterleaved({ranks, n, chunks}).value(), GetParam());
        for (int rank = 0; rank < ranks; ++rank) {
          EXPECT_EQ(timing[rank].idle, (ranks - 1) * (f_ + b_))
              << ranks << " " << n << " " << chunks;
          const int ahead = 2 * (ranks - 1 - rank) + (chunks - 1) * ranks;
          EXPECT_EQ(timing[rank].peak_live, std::min(n * chunks, ahead + 1));
        }
      }
    }
  }
}

// Qi et al. 2023, table 1 (DeepSeek-V3 report, table 2): (P - 1)(F + B - 2W), activations P on
// every rank. Exact while W fits into the gaps and there are enough microbatches: n >= P.
TEST_P(ClosedForm, ZbH1) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const int n : {ranks, 2 * ranks + 1, 12 + ranks, 32}) {
      for (const RankTiming& rank : TimeOf(MakeZbH1({ranks, n, 1}).value(), GetParam())) {
        EXPECT_EQ(rank.idle, (ranks - 1) * (f_ + b_ - 2 * w_)) << ranks << " " << n;
        EXPECT_EQ(rank.peak_live, std::min(n, ranks));
      }
    }
  }
}

// DeepSeek-V3 report, table 2: (P/2 - 1)(F&B + B - 3W) with F&B = F + B here, where nothing is
// hidden; activations P + 1. Exact where F = I; else the directions do not meet in step and ranks
// wait less.
TEST_P(ClosedForm, DualPipe) {
  for (const int ranks : {2, 4, 6, 8, 16}) {
    for (const int n : {2 * ranks, 2 * ranks + 2, 3 * ranks, 8 * ranks + 2}) {
      const int64_t wanted = (ranks / 2 - 1) * (f_ + b_ + b_ - 3 * w_);
      for (const RankTiming& rank : TimeOf(MakeDualPipe({ranks, n, 1}).value(), GetParam())) {
        if (f_ == i_) {
          EXPECT_EQ(rank.idle, wanted) << ranks << " " << n;
        } else {
          EXPECT_LE(rank.idle, wanted) << ranks << " " << n;
        }
        EXPECT_EQ(rank.peak_live, ranks + 1) << ranks << " " << n;
      }
    }
  }
}

// The same with the P of the formulas the number of stages, twice that of ranks.
TEST_P(ClosedForm, DualPipeV) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const int n : {2 * ranks, 2 * ranks + 1, 3 * ranks, 8 * ranks + 1}) {
      const int64_t wanted = (ranks - 1) * (f_ + b_ + b_ - 3 * w_);
      for (const RankTiming& rank : TimeOf(MakeDualPipeV({ranks, n, 2}).value(), GetParam())) {
        if (f_ == i_) {
          EXPECT_EQ(rank.idle, wanted) << ranks << " " << n;
        } else {
          EXPECT_LE(rank.idle, wanted) << ranks << " " << n;
        }
        EXPECT_EQ(rank.peak_live, 2 * ranks + 1) << ranks << " " << n;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Durations, ClosedForm, ::testing::Values(kUnits, kCheapWeights, kUneven));

// The figures of a prototype for P = 4 and 8, kept so that the formulas above are not only compared
// with themselves.
TEST(ClosedFormFigures, UnitBubbles) {
  EXPECT_EQ(TimeOf(Make1F1B({4, 12, 1}).value())[0].idle, 9);
  EXPECT_EQ(TimeOf(Make1F1B({8, 20, 1}).value())[0].idle, 21);
  EXPECT_EQ(TimeOf(MakeZbH1({4, 12, 1}).value())[0].idle, 3);
  EXPECT_EQ(TimeOf(MakeZbH1({8, 32, 1}).value())[7].idle, 7);
  EXPECT_EQ(TimeOf(MakeDualPipe({4, 12, 1}).value())[0].idle, 2);
  EXPECT_EQ(TimeOf(MakeDualPipe({8, 20, 1}).value())[3].idle, 6);
  EXPECT_EQ(TimeOf(MakeDualPipe({8, 32, 1}).value())[7].peak_live, 9);
  // 9.5 where the formula says 10.5.
  EXPECT_EQ(TimeOf(MakeDualPipe({8, 20, 1}).value(), kUneven)[0].idle, 19);
}

TEST(ClosedFormFigures, MessagesTakeNoTime) {
  for (const testing::NamedShape& made : testing::AllSmallShapes()) {
    const Schedule with = MakeSchedule(made.name, made.shape).value();
    Schedule without = with;
    for (auto& actions : without.actions) {
      std::erase_if(actions, [](const Action& a) { return internal::IsMessage(a.kind); });
    }
    EXPECT_EQ(internal::Play(with).finish, internal::Play(without).finish) << Describe(made);
  }
}

}  // namespace
}  // namespace sluice::parallel
