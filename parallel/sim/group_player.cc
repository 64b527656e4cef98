#include "parallel/sim/group_player.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace sluice::parallel {
namespace {

bool IsForward(ActionKind kind) { return kind == ActionKind::kForward; }
bool IsBackward(ActionKind kind) {
  return kind == ActionKind::kBackward || kind == ActionKind::kBackwardInput;
}
bool IsMessage(ActionKind kind) {
  return kind == ActionKind::kSendActivation || kind == ActionKind::kReceiveActivation ||
         kind == ActionKind::kSendGradient || kind == ActionKind::kReceiveGradient;
}

LaneTimes Both(const LaneTimes& a, const LaneTimes& b) {
  return {a.seconds + b.seconds, a.compute_busy + b.compute_busy, a.comm_busy + b.comm_busy};
}

}  // namespace

GroupPlayer::SteadyRange GroupPlayer::SteadyOf(const std::vector<Action>& actions) {
  SteadyRange range{static_cast<int>(actions.size()), 0};
  for (int i = 0; i < static_cast<int>(actions.size()); ++i) {
    if (IsBackward(actions[i].kind)) range.begin = std::min(range.begin, i);
    if (IsForward(actions[i].kind)) range.end = i + 1;
  }
  return range;
}

GroupPlayer::GroupPlayer(const SimulationRequest& request, int group)
    : request_(request),
      schedule_(*request.schedule),
      costs_(*request.costs),
      group_(group),
      pipe_(schedule_.num_ranks()),
      cells_(static_cast<size_t>(schedule_.num_stages) * schedule_.num_microbatches),
      slow_(pipe_, 1.0),
      link_free_(static_cast<size_t>(pipe_) * pipe_, 0.0),
      known_(pipe_),
      done_(pipe_, 0) {
  const int data = request.groups * request.members;
  for (const Straggler& straggler : request.stragglers) {
    const int pipe_rank = straggler.rank / data, of = straggler.rank % data / request.members;
    if (of == group) slow_[pipe_rank] = std::max(slow_[pipe_rank], straggler.factor);
  }
  for (const auto& actions : schedule_.actions) steady_.push_back(SteadyOf(actions));
  for (int rank = 0; rank < pipe_; ++rank) SkipMessages(rank);
}

// Data moves as soon as it is made.
void GroupPlayer::SkipMessages(int rank) {
  const std::vector<Action>& actions = schedule_.actions[rank];
  while (done_[rank] < actions.size() && IsMessage(actions[done_[rank]].kind)) ++done_[rank];
}

bool GroupPlayer::IsDone(int rank) const { return done_[rank] >= schedule_.actions[rank].size(); }

void GroupPlayer::Complete(int rank, double start, double finish, const LaneTimes& times,
                           Timeline& timeline) {
  const int index = group_ * pipe_ + rank;
  const Action& action = schedule_.actions[rank][done_[rank]];
  RankTimes& sums = timeline.ranks[index];
  sums.compute += times.compute_busy;
  sums.exposed_comm += times.exposed_comm();
  sums.finish = finish;
  if (request_.keep_spans)
    timeline.spans[index].push_back({action, start, finish, times.exposed_comm()});
  Finish(rank, action, finish);
  ++done_[rank];
  SkipMessages(rank);
}

absl::Status GroupPlayer::Run(Timeline& timeline) {
  std::vector<double> now(pipe_, 0.0);
  for (bool progress = true; progress;) {
    progress = false;
    for (int rank = 0; rank < pipe_; ++rank) {
      while (!IsDone(rank)) {
        const double ready = NextReady(rank);
        if (ready == kNever) break;
        const double start = std::max(ready, now[rank]);
        const LaneTimes times = NextTimes(rank);
        now[rank] = start + times.seconds;
        Complete(rank, start, now[rank], times, timeline);
        progress = true;
      }
    }
  }
  return CheckDone();
}

absl::Status GroupPlayer::CheckDone() const {
  for (int rank = 0; rank < pipe_; ++rank) {
    if (IsDone(rank)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("simulate: schedule ", schedule_.name, " deadlocks: rank ", rank,
                     " is stuck at ", ToText(schedule_.actions[rank][done_[rank]]), ", action ",
                     done_[rank], " of ", schedule_.actions[rank].size()));
  }
  return absl::OkStatus();
}

GroupPlayer::Cell& GroupPlayer::At(int stage, int microbatch) {
  return cells_[static_cast<size_t>(stage) * schedule_.num_microbatches + microbatch];
}

double GroupPlayer::RowsOf(int stage, int microbatch) const {
  return request_.rows.worst ? request_.rows.worst(group_, stage, microbatch)
                             : request_.rows.constant;
}

double GroupPlayer::NextReady(int rank) {
  const Action& action = schedule_.actions[rank][done_[rank]];
  const int stage = action.stage, microbatch = action.microbatch;
  switch (action.kind) {
    case ActionKind::kForward:
      return Input(stage, microbatch);
    case ActionKind::kBackward:
    case ActionKind::kBackwardInput:
      return OutputGradient(stage, microbatch);
    case ActionKind::kBackwardWeight:
      return At(stage, microbatch).input_gradient;
    case ActionKind::kOverlap: {
      const double a = Input(stage, microbatch);
      const double b = OutputGradient(action.backward_stage, action.backward_microbatch);
      return a == kNever || b == kNever ? kNever : std::max(a, b);
    }
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveActivation:
    case ActionKind::kSendGradient:
    case ActionKind::kReceiveGradient:
      break;
  }
  CHECK(false) << "rank " << rank << ": a message is not timed";
  return kNever;
}
double GroupPlayer::Input(int stage, int microbatch) {
  return stage == 0 ? 0.0 : At(stage, microbatch).activation;
}
double GroupPlayer::OutputGradient(int stage, int microbatch) {
  const Cell& cell = At(stage, microbatch);
  if (stage + 1 == schedule_.num_stages) return cell.forward;
  return cell.forward == kNever ? kNever : cell.gradient;
}

void GroupPlayer::Finish(int rank, const Action& action, double time) {
  if (IsForward(action.kind) || action.kind == ActionKind::kOverlap) {
    At(action.stage, action.microbatch).forward = time;
    if (action.stage + 1 < schedule_.num_stages) {
      At(action.stage + 1, action.microbatch).activation =
          Arrival(rank, action.stage + 1, action.microbatch, time);
    }
  }
  if (!IsBackward(action.kind) && action.kind != ActionKind::kOverlap) return;
  const bool overlap = action.kind == ActionKind::kOverlap;
  const int stage = overlap ? action.backward_stage : action.stage;
  const int microbatch = overlap ? action.backward_microbatch : action.microbatch;
  At(stage, microbatch).input_gradient = time;
  if (stage > 0) At(stage - 1, microbatch).gradient = Arrival(rank, stage - 1, microbatch, time);
}

// Messages of one pair of ranks queue for their link.
double GroupPlayer::Arrival(int from, int stage, int microbatch, double sent) {
  const int to = schedule_.RankOf(stage, microbatch);
  if (to == from) return sent;
  double& link = link_free_[static_cast<size_t>(from) * pipe_ + to];
  link = std::max(link, sent) + costs_.message_seconds;
  return link + costs_.message_latency;
}

// Equal chunks take equal time as long as nothing depends on the microbatch.
LaneTimes GroupPlayer::NextTimes(int rank) {
  const int step = static_cast<int>(done_[rank]);
  const Action& action = schedule_.actions[rank][step];
  if (request_.rows.worst) return TimesOf(rank, step, action, Rows::kFullest);
  const bool steady = step >= steady_[rank].begin && step < steady_[rank].end;
  const size_t kind = static_cast<size_t>(action.kind);
  const size_t place = action.kind == ActionKind::kOverlap
                           ? schedule_.num_stages * size_t{10} +
                                 static_cast<size_t>(action.stage) * schedule_.num_stages +
                                 action.backward_stage
                           : static_cast<size_t>(action.stage) * 10 + kind * 2 + steady;
  CHECK(action.kind == ActionKind::kOverlap || kind < 4) << "messages are not timed";
  std::vector<LaneTimes>& known = known_[rank];
  if (known.empty())
    known.resize(schedule_.num_stages * (size_t{10} + schedule_.num_stages), {-1, 0, 0});
  if (known[place].seconds < 0) known[place] = TimesOf(rank, step, action, Rows::kFullest);
  return known[place];
}

double GroupPlayer::BusyShare(int rank, const LaneTimes& times) const {
  if (request_.members == 1 || times.seconds <= 0) return 1;
  const int step = static_cast<int>(done_[rank]);
  const LaneTimes mean = TimesOf(rank, step, schedule_.actions[rank][step], Rows::kMean);
  return std::min(1.0, mean.seconds / times.seconds);
}

LaneTimes GroupPlayer::TimesOf(int rank, int step, const Action& action, Rows which) const {
  const ChunkCost& chunk = costs_.stages[action.stage];
  const bool mean = which == Rows::kMean;
  const double rows = mean ? 1 : RowsOf(action.stage, action.microbatch), slow = slow_[rank];
  switch (action.kind) {
    case ActionKind::kForward:
      return Shrink(rank, step, SumOf(chunk.forward, rows, slow), chunk, rows);
    case ActionKind::kBackwardInput:
      return Shrink(rank, step, SumOf(chunk.backward_input, rows, slow), chunk, rows);
    case ActionKind::kBackwardWeight:
      return SumOf(chunk.backward_weight, rows, slow);
    case ActionKind::kBackward:
      return Shrink(
          rank, step,
          Both(SumOf(chunk.backward_input, rows, slow), SumOf(chunk.backward_weight, rows, slow)),
          chunk, rows);
    case ActionKind::kOverlap: {
      const ChunkPair pair{
          .forward = &chunk,
          .backward = &costs_.stages[action.backward_stage],
          .forward_rows = rows,
          .backward_rows = mean ? 1 : RowsOf(action.backward_stage, action.backward_microbatch),
          .compute_factor = slow};
      return PairTimes(pair);
    }
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveActivation:
    case ActionKind::kSendGradient:
    case ActionKind::kReceiveGradient:
      return {};
  }
  return {};
}

// The two streams of a rank on a CPU run in their caller, one phase after the other
// (kernels/core/cpu_stream.h): there a pair hides nothing.
LaneTimes GroupPlayer::PairTimes(ChunkPair pair) const {
  if (request_.cores_per_node == 0) {
    pair.compute_factor *= costs_.compute_factor_in_overlap;
    return PlayPair(pair);
  }
  return Both(SumOf(pair.forward->forward, pair.forward_rows, pair.compute_factor),
              Both(SumOf(pair.backward->backward_input, pair.backward_rows, pair.compute_factor),
                   SumOf(pair.backward->backward_weight, pair.backward_rows, pair.compute_factor)));
}

// Overlap::kNeighbours: what a forward and a backward of this stage would take side by side, as
// a share of one after the other, is what each of the two takes.
LaneTimes GroupPlayer::Shrink(int rank, int step, const LaneTimes& alone, const ChunkCost& chunk,
                              double rows) const {
  const SteadyRange& steady = steady_[rank];
  if (costs_.overlap == Overlap::kNone || step < steady.begin || step >= steady.end) return alone;
  const double slow = slow_[rank];
  const double sum = SumOf(chunk.forward, rows, slow).seconds +
                     SumOf(chunk.backward_input, rows, slow).seconds +
                     SumOf(chunk.backward_weight, rows, slow).seconds;
  const LaneTimes pair = PairTimes({&chunk, &chunk, rows, rows, slow});
  if (sum <= 0 || pair.seconds >= sum) return alone;
  const double share = pair.seconds / sum;
  LaneTimes shrunk = alone;
  shrunk.seconds *= share;
  shrunk.compute_busy = std::min(shrunk.seconds, pair.compute_busy * alone.seconds / sum);
  return shrunk;
}

}  // namespace sluice::parallel
