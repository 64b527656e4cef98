// DualPipe and DualPipeV against the step counts of their authors' programs
// (tests/golden/vectors/dualpipe_steps.json): the kinds of a rank's actions, spelt out from the
// eight counts, and which direction each has.
#include <gtest/gtest.h>

#include <deque>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "parallel/schedule/play.h"
#include "parallel/schedule/schedule.h"
#include "tests/support/source_path.h"

namespace sluice::parallel {
namespace {

using Words = std::vector<std::string>;

void Repeat(int times, const Words& words, Words& out) {
  for (int i = 0; i < times; ++i) out.insert(out.end(), words.begin(), words.end());
}

// "F0" is a forward of direction 0, "I1" an input gradient, "W" the oldest weight gradient.
// `meets`: the first pair of step 4 is not overlapped.
Words Spell(const std::vector<int>& steps, bool meets) {
  Words out;
  Repeat(steps[0], {"F0"}, out);
  Repeat(steps[1], {"F0", "F1"}, out);
  Repeat(steps[2], {"I1", "W", "F1"}, out);
  Words pairs;
  Repeat(steps[3], {"F0|B1", "F1|B0"}, pairs);
  if (meets) {
    pairs.erase(pairs.begin());
    pairs.insert(pairs.begin(), {"F0", "B1"});
  }
  out.insert(out.end(), pairs.begin(), pairs.end());
  Repeat(steps[4], {"B1", "F1|B0"}, out);
  Words backwards;
  Repeat(steps[5], {"1", "0"}, backwards);
  for (size_t i = 0; i < backwards.size(); ++i) {
    out.push_back((i < backwards.size() / 2 ? "B" : "I") + backwards[i]);
  }
  Repeat(steps[6], {"W", "I0"}, out);
  Repeat(steps[7], {"W"}, out);
  return out;
}

// The same of a schedule, where `stage` is that of direction 0. Also checks that weight gradients
// are taken oldest first.
Words SpellRank(const std::vector<Action>& actions, int stage) {
  Words out;
  std::deque<std::pair<int, int>> put_off;
  const auto direction = [&](int of) { return of == stage ? "0" : "1"; };
  for (const Action& a : actions) {
    if (internal::IsMessage(a.kind)) continue;
    if (a.kind == ActionKind::kForward) out.push_back(std::string("F") + direction(a.stage));
    if (a.kind == ActionKind::kBackward) out.push_back(std::string("B") + direction(a.stage));
    if (a.kind == ActionKind::kBackwardInput) {
      out.push_back(std::string("I") + direction(a.stage));
      put_off.emplace_back(a.stage, a.microbatch);
    }
    if (a.kind == ActionKind::kBackwardWeight) {
      out.push_back("W");
      EXPECT_EQ(put_off.front(), std::make_pair(int{a.stage}, int{a.microbatch}));
      put_off.pop_front();
    }
    if (a.kind == ActionKind::kOverlap) {
      out.push_back(std::string("F") + direction(a.stage) + "|B" + direction(a.backward_stage));
    }
  }
  return out;
}

nlohmann::json Vectors() {
  return nlohmann::json::parse(
      std::ifstream(::sluice::testing::SourcePath("tests/golden/vectors/dualpipe_steps.json")));
}

TEST(DualPipe, StepsAreThoseOfItsAuthors) {
  const nlohmann::json vectors = Vectors();
  ASSERT_EQ(vectors["dualpipe"].size(), 6u);
  for (const auto& made : vectors["dualpipe"]) {
    const int ranks = made["pp"], n = made["micro_batches"];
    const Schedule schedule = MakeSchedule("dualpipe", {ranks, n, 1}).value();
    for (const auto& wanted : made["ranks"]) {
      const int rank = wanted["rank"];
      const bool meets = rank == ranks / 2 - 1 || rank == ranks / 2;
      // Direction 0 of a rank in the first half is the replica that goes down: stage = rank.
      const int other = ranks - 1 - rank;
      const int stage = rank < ranks / 2 ? rank : other;
      EXPECT_EQ(SpellRank(schedule.actions[rank], stage), Spell(wanted["steps"], meets))
          << ranks << " ranks, " << n << " microbatches, rank " << rank;
    }
  }
}

TEST(DualPipe, TheSecondHalfOfTheMicrobatchesRunsTheOtherWay) {
  const Schedule schedule = MakeDualPipe({4, 8, 1}).value();
  for (int m = 0; m < 8; ++m) {
    for (int stage = 0; stage < 4; ++stage) {
      EXPECT_EQ(schedule.RankOf(stage, m), m < 4 ? stage : 3 - stage);
    }
  }
}

TEST(DualPipeV, StepsAreThoseOfItsAuthors) {
  const nlohmann::json vectors = Vectors();
  ASSERT_EQ(vectors["dualpipev"].size(), 3u);
  for (const auto& made : vectors["dualpipev"]) {
    const int ranks = made["pp_devices"], n = made["micro_batches"];
    const Schedule schedule = MakeSchedule("dualpipe_v", {ranks, n, 2}).value();
    EXPECT_EQ(schedule.num_stages, made["stages"].get<int>());
    for (const auto& wanted : made["ranks"]) {
      const int rank = wanted["rank"];
      EXPECT_EQ(SpellRank(schedule.actions[rank], rank), Spell(wanted["steps"], rank + 1 == ranks))
          << ranks << " ranks, " << n << " microbatches, rank " << rank;
    }
  }
}

TEST(DualPipeV, TheFirstAndTheLastStageShareARank) {
  const Schedule schedule = MakeDualPipeV({3, 6, 2}).value();
  EXPECT_EQ(schedule.rank_of_stage, (std::vector<std::vector<int>>{{0, 1, 2, 2, 1, 0}}));
}

}  // namespace
}  // namespace sluice::parallel
