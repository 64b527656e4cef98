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

// Of `ranks` dealt evenly over `cores`, how many others one finds on its core, on the mean.
double OthersOnCore(int ranks, int cores) {
  const int each = ranks / cores, more = ranks % cores;  // `more` cores have one rank more
  return static_cast<double>(more * (each + 1) * each + (cores - more) * each * (each - 1)) / ranks;
}

// Ranks share the cores of their node. Each has its place on a core, for longer than an action: the
// kernel evens out how many processes each core has, and one that polls counts like one that works,
// so nobody moves to the core of a rank that waits. Who shares a core is chance; so an action finds
// on its own as many others as the mean, each of which works with the share of the node's other
// ranks that do, and takes its polling if not. One that waits for a fuller member of its group
// polls as well. Time goes from one start or end of an action to the next.
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
      others_on_.push_back(OthersOnCore(ranks_on_.back(), request.cores_per_node));
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
    for (Place& place : places_) place.pace = 1;
    ForEachRunning([&](Place& place, int node) {
      place.pace = std::min(place.pace, 1 / CoreTime(place.busy, node));
    });
    double next = kForever;
    for (const Place& place : places_) {
      if (place.running) next = std::min(next, now_ + std::max(0.0, place.left) / place.pace);
    }
    return next;
  }

  // What a second of a rank that is busy for that share of it costs its core.
  double CoreTime(double busy, int node) const {
    const double polling = request_.waiting_core_share;
    const auto takes = [&](double works) { return works + polling * (1 - works); };
    const int others = ranks_on_[node] - 1;
    const double works = others > 0 ? std::max(0.0, active_[node] - busy) / others : 0;
    return takes(busy) + others_on_[node] * takes(works);
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
  std::vector<double> active_;        // [nodes] ranks that work
  std::vector<int> ranks_on_;         // [nodes]
  std::vector<double> others_on_;     // [nodes] ranks beside one on its core
  double now_ = 0;
};

// At the end of a step every rank works.
double TailFactor(const SimulationRequest& request, int world) {
  if (request.cores_per_node == 0) return 1;
  const double ranks = std::min(request.ranks_per_node, world);
  return std::max(1.0, ranks / request.cores_per_node);
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
  for (const TailCost& cost : request.costs->tails) {
    if (cost.total() > timeline.tail.total()) timeline.tail = cost;
  }
  const double factor = TailFactor(request, timeline.num_ranks());
  for (double* part : {&timeline.tail.reduce_gradients, &timeline.tail.optimizer,
                       &timeline.tail.gather_parameters}) {
    *part *= factor;
  }
  timeline.step_seconds = timeline.pipeline_seconds + timeline.tail.total();
  return timeline;
}

}  // namespace sluice::parallel
