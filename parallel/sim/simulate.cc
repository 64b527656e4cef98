#include "parallel/sim/simulate.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "parallel/sim/group_player.h"

namespace sluice::parallel {
namespace {

absl::Status CheckRequest(const SimulationRequest& request) {
  CHECK(request.schedule != nullptr && request.costs != nullptr);
  const Schedule& schedule = *request.schedule;
  if (static_cast<int>(request.costs->stages.size()) != schedule.num_stages) {
    return absl::InvalidArgumentError(absl::StrCat("simulate: found costs of ",
                                                   request.costs->stages.size(), " stages, wanted ",
                                                   schedule.num_stages));
  }
  const std::vector<TailCost>& tails = request.costs->tails;
  if (!tails.empty() && static_cast<int>(tails.size()) != schedule.num_ranks()) {
    return absl::InvalidArgumentError(absl::StrCat("simulate: found tails of ", tails.size(),
                                                   " pipeline ranks, wanted ",
                                                   schedule.num_ranks()));
  }
  if (request.groups < 1 || request.members < 1) {
    return absl::InvalidArgumentError(absl::StrCat("simulate: found ", request.groups,
                                                   " groups of ", request.members,
                                                   " members, wanted each at least 1"));
  }
  if (request.cores_per_node < 0 || request.ranks_per_node < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "simulate: found ", request.ranks_per_node, " ranks on ", request.cores_per_node,
        " cores of a node, wanted at least 1 rank, and 0 cores (not shared) or more"));
  }
  const int world = schedule.num_ranks() * request.groups * request.members;
  for (const Straggler& straggler : request.stragglers) {
    if (straggler.rank < 0 || straggler.rank >= world || !(straggler.factor > 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "simulate: found straggler ", straggler.rank, " with factor ", straggler.factor,
          ", wanted a rank of 0 to ", world - 1, " and a factor above 0"));
    }
  }
  return absl::OkStatus();
}

// Ranks share the cores of their node. One that waits sleeps between its questions
// (parallel/comm/patience.h) and wakes on a core that is free, so no core idles while there are
// ranks that work: these go on at the pace of cores / (ranks that work + what the questions of the
// others take), at most 1. One that waits for a fuller member of its group sleeps as well. Time
// goes from one start or end of an action to the next.
class SharedCores {
 public:
  SharedCores(const SimulationRequest& request, Timeline& timeline)
      : request_(request), timeline_(timeline), pipe_(timeline.pipe) {
    players_.reserve(request.groups);
    for (int group = 0; group < request.groups; ++group) players_.emplace_back(request, group);
    places_.resize(static_cast<size_t>(pipe_) * request.groups);
    const int world = timeline.num_ranks();
    active_.resize((world + request.ranks_per_node - 1) / request.ranks_per_node, 0);
    for (size_t node = 0; node < active_.size(); ++node) {
      const int first = static_cast<int>(node) * request.ranks_per_node;
      ranks_on_.push_back(std::min(request.ranks_per_node, world - first));
    }
  }

  absl::Status Run() {
    for (;;) {
      const double next_start = StartWhatCan();
      const double until = std::min(next_start, NextFinish());
      if (until == kForever) break;
      for (Place& place : places_) {
        if (place.running) place.left -= (until - now_) * place.pace;
      }
      now_ = until;
      FinishWhatIsDone();
    }
    for (const GroupPlayer& player : players_) RETURN_IF_ERROR(player.CheckDone());
    return absl::OkStatus();
  }

 private:
  static constexpr double kForever = std::numeric_limits<double>::infinity();
  struct Place {  // a pipeline rank of a group
    bool running = false;
    double start = 0, left = 0, pace = 1;  // seconds of work left, work a second
    double busy = 1;                       // of each member, on the mean
    LaneTimes times;
  };

  // The time of the first start that has to wait.
  double StartWhatCan() {
    double next = kForever;
    for (GroupPlayer& player : players_) {
      for (int rank = 0; rank < pipe_; ++rank) {
        Place& place = At(player, rank);
        if (place.running || player.IsDone(rank)) continue;
        const double ready = player.NextReady(rank);
        if (ready == GroupPlayer::kNever) continue;
        if (ready > now_) {
          next = std::min(next, ready);
          continue;
        }
        const LaneTimes times = player.NextTimes(rank);
        place = {true, now_, times.seconds, 1, player.BusyShare(rank, times), times};
      }
    }
    return next;
  }

  double NextFinish() {
    std::fill(active_.begin(), active_.end(), 0);
    ForEachRunning([&](Place& place, int node) { active_[node] += place.busy; });
    for (size_t node = 0; node < active_.size(); ++node)
      active_[node] += request_.waiting_core_share * (ranks_on_[node] - active_[node]);
    for (Place& place : places_) place.pace = 1;
    const double cores = request_.cores_per_node;
    ForEachRunning(
        [&](Place& place, int node) { place.pace = std::min(place.pace, cores / active_[node]); });
    double next = kForever;
    for (const Place& place : places_) {
      if (place.running) next = std::min(next, now_ + std::max(0.0, place.left) / place.pace);
    }
    return next;
  }

  void FinishWhatIsDone() {
    for (GroupPlayer& player : players_) {
      for (int rank = 0; rank < pipe_; ++rank) {
        Place& place = At(player, rank);
        // What is left of rounding would not move the clock.
        if (!place.running || now_ + place.left / place.pace > now_) continue;
        place.running = false;
        LaneTimes took = place.times;
        const double stretch = took.seconds > 0 ? (now_ - place.start) / took.seconds : 1;
        took = {now_ - place.start, took.compute_busy * stretch, took.comm_busy * stretch};
        player.Complete(rank, place.start, now_, took, timeline_);
      }
    }
  }

  // Once for each rank of the world that runs, with its node.
  template <typename F>
  void ForEachRunning(const F& visit) {
    const int data = request_.groups * request_.members;
    for (const GroupPlayer& player : players_) {
      for (int rank = 0; rank < pipe_; ++rank) {
        Place& place = At(player, rank);
        if (!place.running) continue;
        const int first = rank * data + player.group() * request_.members;
        for (int i = 0; i < request_.members; ++i)
          visit(place, (first + i) / request_.ranks_per_node);
      }
    }
  }
  Place& At(const GroupPlayer& player, int rank) {
    return places_[static_cast<size_t>(player.group()) * pipe_ + rank];
  }

  const SimulationRequest& request_;
  Timeline& timeline_;
  const int pipe_;
  std::vector<GroupPlayer> players_;  // [G]
  std::vector<Place> places_;         // [G, P]
  std::vector<double> active_;        // [nodes] cores that are wanted
  std::vector<int> ranks_on_;         // [nodes]
  double now_ = 0;
};

// `work` in seconds a rank, all from the same moment on, in equal shares of the cores: how long
// until all of it is done.
double SecondsOnCores(std::vector<double> work, int cores) {
  std::sort(work.begin(), work.end());
  double seconds = 0, done = 0;  // of each rank that still works
  for (size_t i = 0; i < work.size(); ++i) {
    const double share = static_cast<double>(work.size() - i) / cores;
    seconds += (work[i] - done) * std::max(1.0, share);
    done = work[i];
  }
  return seconds;
}

// At the end of a step every rank works; where ranks share cores, those with less leave theirs to
// the others. For costs that have tails.
double TailSeconds(const SimulationRequest& request, int world) {
  const std::vector<TailCost>& tails = request.costs->tails;
  const int data = request.groups * request.members;
  double longest = 0;
  for (int first = 0; first < world; first += request.ranks_per_node) {
    std::vector<double> work;
    for (int rank = first; rank < std::min(world, first + request.ranks_per_node); ++rank)
      work.push_back(tails[rank / data].total());
    longest = std::max(longest, SecondsOnCores(std::move(work), request.cores_per_node));
  }
  return longest;
}

}  // namespace

double Timeline::bubble() const {
  double idle = 0;
  for (const RankTimes& rank : ranks) idle += rank.idle;
  return pipeline_seconds > 0 ? idle / (pipeline_seconds * static_cast<double>(ranks.size())) : 0;
}

double Timeline::exposed_comm() const {
  double exposed = 0;
  for (const RankTimes& rank : ranks) exposed += std::max(0.0, rank.exposed_comm);  // of rounding
  return pipeline_seconds > 0 ? exposed / (pipeline_seconds * static_cast<double>(ranks.size()))
                              : 0;
}

int Timeline::slowest_group() const {
  const auto last =
      std::max_element(ranks.begin(), ranks.end(),
                       [](const RankTimes& a, const RankTimes& b) { return a.finish < b.finish; });
  return last == ranks.end() ? 0 : static_cast<int>(last - ranks.begin()) / pipe;
}

absl::StatusOr<Timeline> Simulate(const SimulationRequest& request) {
  RETURN_IF_ERROR(CheckRequest(request));
  Timeline timeline;
  timeline.pipe = request.schedule->num_ranks();
  timeline.groups = request.groups;
  timeline.members = request.members;
  const size_t pipelines = static_cast<size_t>(timeline.pipe) * request.groups;
  timeline.spans.resize(pipelines);
  timeline.ranks.resize(pipelines);
  if (request.cores_per_node > 0) {
    RETURN_IF_ERROR(SharedCores(request, timeline).Run());
  } else {
    for (int group = 0; group < request.groups; ++group) {
      RETURN_IF_ERROR(GroupPlayer(request, group).Run(timeline));
    }
  }
  for (const RankTimes& rank : timeline.ranks)
    timeline.pipeline_seconds = std::max(timeline.pipeline_seconds, rank.finish);
  for (RankTimes& rank : timeline.ranks)
    rank.idle = timeline.pipeline_seconds - rank.compute - rank.exposed_comm;
  timeline.tails = request.costs->tails;
  double alone = 0;
  for (const TailCost& cost : timeline.tails) alone = std::max(alone, cost.total());
  if (request.cores_per_node > 0 && alone > 0) {
    const double factor = TailSeconds(request, timeline.num_ranks()) / alone;
    for (TailCost& cost : timeline.tails) {
      for (double* part : {&cost.reduce_gradients, &cost.optimizer, &cost.gather_parameters})
        *part *= factor;
    }
  }
  for (const TailCost& cost : timeline.tails) {
    if (cost.total() > timeline.tail.total()) timeline.tail = cost;
  }
  timeline.step_seconds = timeline.pipeline_seconds + timeline.tail.total();
  return timeline;
}

}  // namespace sluice::parallel
