// All layouts that Sluice runs on a cluster, tried one by one.
#include <algorithm>
#include <string>
#include <utility>

#include "parallel/plan/plan.h"

namespace sluice::parallel {
namespace {

struct NamedSchedule {
  const char* name;
  int chunks;
};
constexpr NamedSchedule kSchedules[] = {{"gpipe", 1},       {"1f1b", 1},  {"interleaved", 2},
                                        {"interleaved", 4}, {"zb_h1", 1}, {"dualpipe", 1},
                                        {"dualpipe_v", 2}};

// A reason without its numbers, to count by: what stands before its colon, in words.
std::string KindOf(const std::string& why) {
  constexpr std::pair<const char*, const char*> kInWords[] = {
      {"batch", "the batch is no multiple of data x microbatch"},
      {"budget", "costs more than the budget"},
      {"deadline", "takes longer than the deadline"},
      {"mesh.pipe", "a number of pipeline ranks that the schedule does not take"},
      {"microbatches", "too few microbatches for the schedule, or a number that it does not take"},
      {"pipeline", "more stages or microbatches than a schedule can have"},
      {"stages", "more stages than layers"},
  };
  const std::string kind = why.substr(0, why.find(':'));
  for (const auto& [key, words] : kInWords) {
    if (kind == key) return words;
  }
  return kind;
}

bool IsAsked(int asked, int found) { return asked == 0 || asked == found; }

std::vector<RecomputeChoice> Choices(const PlanRequest& request) {
  if (!request.recompute.empty()) return request.recompute;
  RecomputeChoice some, all;
  some.norms = some.swiglu = true;
  all.norms = all.mla_up = all.swiglu = true;
  return {RecomputeChoice(), some, all};
}

class Search {
 public:
  Search(const PlanRequest& request, int most) : request_(request), most_(most) {}

  Plans Run() {
    const int ranks = request_.cluster.num_ranks();
    for (int pipe = 1; pipe <= ranks; ++pipe) {
      if (ranks % pipe != 0 || pipe > static_cast<int>(request_.model.layers.size())) continue;
      Layout layout;
      layout.pipe = pipe;
      layout.data = ranks / pipe;
      if (!IsAsked(request_.pipe, pipe) || !IsAsked(request_.data, layout.data)) continue;
      for (int expert = 1; expert <= layout.data; ++expert) {
        if (layout.data % expert != 0 || std::max(1, request_.model.experts) % expert != 0)
          continue;
        if (!IsAsked(request_.expert, expert)) continue;
        layout.expert = expert;
        TryMesh(layout);
      }
    }
    Finish();
    return std::move(plans_);
  }

 private:
  void TryMesh(Layout layout) {
    const std::vector<int> sizes = request_.microbatch_sizes.empty() ? std::vector<int>{1, 2, 4, 8}
                                                                     : request_.microbatch_sizes;
    layout.moment_bytes = request_.moment_bytes;
    for (const int size : sizes) {
      layout.microbatch = size;
      for (const NamedSchedule& schedule : kSchedules) {
        if (!IsWanted(schedule.name) || (layout.pipe == 1 && schedule.name != std::string("1f1b")))
          continue;
        layout.schedule = schedule.name;
        layout.chunks = ChunksOf(schedule);
        if (layout.chunks > 0) TryRest(layout);
      }
    }
  }

  // 0: not asked for. Interleaved takes any number of chunks; those of the table are only the
  // usual.
  int ChunksOf(const NamedSchedule& schedule) const {
    const int asked = request_.chunks;
    if (asked > 1 && schedule.name == std::string("interleaved"))
      return schedule.chunks == 2 ? asked : 0;
    return IsAsked(asked, schedule.chunks) ? schedule.chunks : 0;
  }

  bool IsWanted(const std::string& name) const {
    const auto& wanted = request_.schedules;
    return wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
  }

  void TryRest(Layout layout) {
    const std::vector<Precision> precisions = request_.precisions.empty()
                                                  ? std::vector<Precision>{Precision::kBf16}
                                                  : request_.precisions;
    for (const Precision precision : precisions) {
      layout.precision = precision;
      for (const RecomputeChoice& recompute : Choices(request_)) {
        layout.recompute = recompute;
        for (const int zero :
             request_.zero_stages.empty() ? std::vector<int>{1} : request_.zero_stages) {
          layout.zero = zero;
          Try(layout);
        }
      }
    }
  }

  void Try(const Layout& layout) {
    ++plans_.tried;
    absl::StatusOr<PlanEntry> entry = Evaluate(request_, layout, schedules_, Detail::kSearch);
    if (!entry.ok()) {
      ++plans_.refused[KindOf(std::string(entry.status().message()))];
    } else if (!entry->why_not.empty()) {
      ++plans_.refused[KindOf(entry->why_not)];
      if (entry->step_seconds == 0) plans_.nearest.push_back(*std::move(entry));
    } else {
      ++plans_.num_fitting;
      plans_.fitting.push_back(*std::move(entry));
    }
  }

  // The best are timed again with every group and drawn imbalance.
  void Finish() {
    const auto faster = [](const PlanEntry& a, const PlanEntry& b) {
      return a.step_seconds < b.step_seconds;
    };
    std::stable_sort(plans_.fitting.begin(), plans_.fitting.end(), faster);
    if (static_cast<int>(plans_.fitting.size()) > most_) plans_.fitting.resize(most_);
    for (PlanEntry& entry : plans_.fitting) {
      absl::StatusOr<PlanEntry> full = Evaluate(request_, entry.layout, schedules_, Detail::kFull);
      if (full.ok()) entry = *std::move(full);
    }
    // Now that every group counts, some may be over a limit.
    const auto rest = std::remove_if(plans_.fitting.begin(), plans_.fitting.end(),
                                     [this](const PlanEntry& entry) {
                                       if (entry.why_not.empty()) return false;
                                       ++plans_.refused[KindOf(entry.why_not)];
                                       --plans_.num_fitting;
                                       return true;
                                     });
    plans_.fitting.erase(rest, plans_.fitting.end());
    std::stable_sort(plans_.fitting.begin(), plans_.fitting.end(), faster);
    std::stable_sort(
        plans_.nearest.begin(), plans_.nearest.end(),
        [](const PlanEntry& a, const PlanEntry& b) { return a.memory.total() < b.memory.total(); });
    if (plans_.nearest.size() > 5) plans_.nearest.resize(5);
  }

  const PlanRequest& request_;
  const int most_;
  PlanCache schedules_;
  Plans plans_;
};

}  // namespace

Plans MakePlans(const PlanRequest& request, int most) { return Search(request, most).Run(); }

}  // namespace sluice::parallel
