// Damages schedules and asks whether Validate notices. What it lets pass must be legal by a second
// opinion that shares nothing with it: the definition of a schedule as a graph.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/parallel/schedule_testing.h"
#include "tests/support/sanitized.h"

namespace sluice::parallel {
namespace {

constexpr int kTrials = sluice::testing::kSanitized ? 15 : 400;

// One node an action, named by what it does ("F2.5", "sa1.0", ...). Legal: the names are exactly
// those that a schedule needs, each on its rank; the graph of program order and data flow has no
// cycle; weight gradients ascend; messages between two ranks keep their order.
class Graph {
 public:
  explicit Graph(const Schedule& schedule) : schedule_(schedule) {}

  bool IsLegal() {
    return AddNodes() && HasAllWork() && WeightsAscend() && MessagesKeepOrder() && IsAcyclic();
  }

 private:
  static std::string Name(const char* what, int stage, int microbatch) {
    return what + std::to_string(stage) + "." + std::to_string(microbatch);
  }

  bool Claim(const char* what, int stage, int microbatch, int node, int rank) {
    if (stage < 0 || stage >= schedule_.num_stages || microbatch < 0 ||
        microbatch >= schedule_.num_microbatches) {
      return false;
    }
    if (schedule_.RankOf(stage, microbatch) != rank) return false;
    if (what[0] == 'W')
      weights_[stage * 2 + schedule_.replica_of_microbatch[microbatch]].push_back(microbatch);
    return node_of_.emplace(Name(what, stage, microbatch), node).second;
  }

  bool AddNodes() {
    for (int rank = 0; rank < schedule_.num_ranks(); ++rank) {
      for (size_t step = 0; step < schedule_.actions[rank].size(); ++step, ++num_nodes_) {
        if (!AddNode(schedule_.actions[rank][step], rank)) return false;
        if (step > 0) edges_.emplace_back(num_nodes_ - 1, num_nodes_);
      }
    }
    return true;
  }

  bool AddNode(const Action& a, int rank) {
    const auto claim = [&](const char* what) {
      return Claim(what, a.stage, a.microbatch, num_nodes_, rank);
    };
    switch (a.kind) {
      case ActionKind::kForward:
        return claim("F");
      case ActionKind::kBackwardInput:
        return claim("I");
      case ActionKind::kBackwardWeight:
        return claim("W");
      case ActionKind::kBackward:
        return claim("I") && claim("W");
      case ActionKind::kOverlap:
        return claim("F") &&
               Claim("I", a.backward_stage, a.backward_microbatch, num_nodes_, rank) &&
               Claim("W", a.backward_stage, a.backward_microbatch, num_nodes_, rank);
      case ActionKind::kSendActivation:
        return claim("sa");
      case ActionKind::kReceiveActivation:
        return claim("ra");
      case ActionKind::kSendGradient:
        return claim("sg");
      case ActionKind::kReceiveGradient:
        return claim("rg");
    }
    return false;
  }

  // An edge from one piece of work to another; a piece that belongs to one node with the other is
  // only in order within B.
  bool Edge(const std::string& from, const std::string& to) {
    const auto a = node_of_.find(from), b = node_of_.find(to);
    if (a == node_of_.end() || b == node_of_.end()) return false;
    edges_.emplace_back(a->second, b->second);
    return true;
  }

  bool HasAllWork() {
    size_t wanted = 0;
    for (int m = 0; m < schedule_.num_microbatches; ++m) {
      for (int s = 0; s < schedule_.num_stages; ++s) {
        wanted += 3;
        if (!Edge(Name("F", s, m), Name("I", s, m))) return false;
        const auto i = node_of_.find(Name("I", s, m)), w = node_of_.find(Name("W", s, m));
        if (w == node_of_.end()) return false;
        if (i->second != w->second) edges_.emplace_back(i->second, w->second);
        if (s + 1 == schedule_.num_stages) continue;
        if (schedule_.RankOf(s, m) == schedule_.RankOf(s + 1, m)) {
          if (!Edge(Name("F", s, m), Name("F", s + 1, m))) return false;
          if (!Edge(Name("I", s + 1, m), Name("I", s, m))) return false;
          continue;
        }
        wanted += 4;
        const bool linked = Edge(Name("F", s, m), Name("sa", s, m)) &&
                            Edge(Name("sa", s, m), Name("ra", s + 1, m)) &&
                            Edge(Name("ra", s + 1, m), Name("F", s + 1, m)) &&
                            Edge(Name("I", s + 1, m), Name("sg", s + 1, m)) &&
                            Edge(Name("sg", s + 1, m), Name("rg", s, m)) &&
                            Edge(Name("rg", s, m), Name("I", s, m));
        if (!linked) return false;
      }
    }
    return node_of_.size() == wanted;
  }

  bool WeightsAscend() const {
    for (const auto& [stage, microbatches] : weights_) {
      for (size_t i = 1; i < microbatches.size(); ++i) {
        if (microbatches[i] < microbatches[i - 1]) return false;
      }
    }
    return true;
  }

  bool MessagesKeepOrder() const {
    std::map<std::pair<int, int>, std::vector<std::string>> sent, received;
    for (int rank = 0; rank < schedule_.num_ranks(); ++rank) {
      for (const Action& a : schedule_.actions[rank]) {
        const auto peer = [&](int stage) { return schedule_.RankOf(stage, a.microbatch); };
        if (a.kind == ActionKind::kSendActivation)
          sent[{rank, peer(a.stage + 1)}].push_back(Name("a", a.stage, a.microbatch));
        if (a.kind == ActionKind::kReceiveActivation)
          received[{peer(a.stage - 1), rank}].push_back(Name("a", a.stage - 1, a.microbatch));
        if (a.kind == ActionKind::kSendGradient)
          sent[{rank, peer(a.stage - 1)}].push_back(Name("g", a.stage, a.microbatch));
        if (a.kind == ActionKind::kReceiveGradient)
          received[{peer(a.stage + 1), rank}].push_back(Name("g", a.stage + 1, a.microbatch));
      }
    }
    return sent == received;
  }

  bool IsAcyclic() const {  // Kahn's algorithm
    std::vector<std::vector<int>> next(num_nodes_);
    std::vector<int> open(num_nodes_, 0);
    for (const auto& [from, to] : edges_) {
      next[from].push_back(to);
      ++open[to];
    }
    std::queue<int> ready;
    for (int node = 0; node < num_nodes_; ++node) {
      if (open[node] == 0) ready.push(node);
    }
    int num_done = 0;
    for (; !ready.empty(); ready.pop(), ++num_done) {
      for (const int to : next[ready.front()]) {
        if (--open[to] == 0) ready.push(to);
      }
    }
    return num_done == num_nodes_;
  }

  const Schedule& schedule_;
  int num_nodes_ = 0;
  std::map<std::string, int> node_of_;
  std::vector<std::pair<int, int>> edges_;
  std::map<int, std::vector<int>> weights_;
};

class Mutator {
 public:
  Mutator(Schedule& schedule, std::mt19937& random) : schedule_(schedule), random_(random) {
    rank_ = Below(schedule.num_ranks());
    step_ = Below(static_cast<int>(actions().size()));
  }
  void Drop() { actions().erase(actions().begin() + step_); }
  void Repeat() {
    const Action copy = actions()[step_];
    actions().insert(actions().begin() + Below(static_cast<int>(actions().size()) + 1), copy);
  }
  void Move() {
    const Action moved = actions()[step_];
    Drop();
    actions().insert(actions().begin() + Below(static_cast<int>(actions().size()) + 1), moved);
  }
  void Swap() { std::swap(actions()[step_], actions()[(step_ + 1) % actions().size()]); }
  void ChangeRank() {
    const Action moved = actions()[step_];
    Drop();
    rank_ = (rank_ + 1 + Below(schedule_.num_ranks() - 1)) % schedule_.num_ranks();
    actions().insert(actions().begin() + Below(static_cast<int>(actions().size()) + 1), moved);
  }
  void ChangeMicrobatch() { Change(actions()[step_].microbatch, schedule_.num_microbatches); }
  void ChangeStage() { Change(actions()[step_].stage, schedule_.num_stages); }

 private:
  std::vector<Action>& actions() { return schedule_.actions[rank_]; }
  int Below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  // To another number, one past either end included.
  void Change(int16_t& number, int end) {
    const int16_t old = number;
    while (number == old) number = static_cast<int16_t>(Below(end + 2) - 1);
  }

  Schedule& schedule_;
  std::mt19937& random_;
  int rank_ = 0, step_ = 0;
};

struct Mutation {
  const char* name;
  void (Mutator::*apply)();
  bool may_be_legal;
};

constexpr Mutation kMutations[] = {
    {"drop", &Mutator::Drop, false},
    {"repeat", &Mutator::Repeat, false},
    {"change rank", &Mutator::ChangeRank, false},
    {"change microbatch", &Mutator::ChangeMicrobatch, false},
    {"change stage", &Mutator::ChangeStage, false},
    {"move", &Mutator::Move, true},
    {"swap neighbours", &Mutator::Swap, true},
};

std::vector<Schedule> Undamaged() {
  return {
      MakeSchedule("gpipe", {4, 8, 1}).value(),
      MakeSchedule("1f1b", {4, 12, 1}).value(),
      MakeSchedule("interleaved", {4, 8, 2}).value(),
      MakeSchedule("interleaved", {2, 4, 3}).value(),
      MakeSchedule("zb_h1", {4, 12, 1}).value(),
      InsertCommunication(testing::MakeOverlapped1F1B(4, 12)).value(),
      InsertCommunication(testing::MakeTwoReplicas(4, 8)).value(),
      MakeSchedule("dualpipe", {4, 10, 1}).value(),
      MakeSchedule("dualpipe_v", {3, 7, 2}).value(),
  };
}

TEST(ValidateMutation, EachIsCaughtOrLegal) {
  std::mt19937 random(7);
  for (const Schedule& good : Undamaged()) {
    ASSERT_TRUE(Graph(good).IsLegal()) << good.name;
    for (const Mutation& mutation : kMutations) {
      int num_caught = 0;
      for (int trial = 0; trial < kTrials; ++trial) {
        Schedule damaged = good;
        Mutator mutator(damaged, random);
        (mutator.*mutation.apply)();
        const absl::Status status = Validate(damaged);
        num_caught += !status.ok();
        ASSERT_EQ(status.ok(), Graph(damaged).IsLegal())
            << mutation.name << " of " << good.name << ": " << status << "\n"
            << ToText(damaged);
      }
      if (!mutation.may_be_legal) {
        EXPECT_EQ(num_caught, kTrials) << good.name << " " << mutation.name;
      }
      std::printf("%-13s %-18s caught %3d, legal %3d\n", good.name.c_str(), mutation.name,
                  num_caught, kTrials - num_caught);
    }
  }
}

}  // namespace
}  // namespace sluice::parallel
