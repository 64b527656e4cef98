#include "trainer/loop/stage_map.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace sluice::trainer {
namespace {

absl::Status Wanted(const RunConfig& config, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("stage_layers: found \"", config.stage_layers(), "\", wanted ", wanted));
}

}  // namespace

absl::StatusOr<std::vector<StageSpec>> StageMap(const RunConfig& config) {
  const ModelConfig& model = config.model();
  const int num_stages = config.mesh().pipe() * config.schedule_chunks();
  if (config.stage_layers().empty()) {
    const bool folded = config.schedule() == "dualpipe" || config.schedule() == "dualpipe_v";
    return SplitLayers(model, num_stages, config.train().sequence_length(),
                       folded ? StagePlacement::kFolded : StagePlacement::kAlone);
  }
  std::vector<StageSpec> stages;
  int next = 0;
  for (absl::string_view word : absl::StrSplit(config.stage_layers(), ',')) {
    StageSpec stage{.first_layer = next};
    if (!absl::SimpleAtoi(word, &stage.num_layers) || stage.num_layers < 0 ||
        stage.num_layers > model.num_hidden_layers()) {
      return Wanted(config, "numbers of layers separated by commas");
    }
    next += stage.num_layers;
    stages.push_back(stage);
  }
  if (static_cast<int>(stages.size()) != num_stages) {
    return Wanted(config, absl::StrCat("mesh.pipe * schedule_chunks = ", num_stages, " numbers"));
  }
  if (next != model.num_hidden_layers()) {
    return Wanted(config, absl::StrCat("a sum of model.num_hidden_layers = ",
                                       model.num_hidden_layers(), ", not ", next));
  }
  for (int i = 1; i + 1 < num_stages; ++i) {
    if (stages[i].num_layers == 0) return Wanted(config, "0 in the first and the last place only");
  }
  stages.front().has_embedding = true;
  stages.back().has_head = true;
  return stages;
}

std::string ToText(const StageSpec& spec) {
  std::string text = spec.has_embedding ? "embed" : "";
  if (spec.num_layers > 0) {
    absl::StrAppend(&text, text.empty() ? "" : "+", spec.first_layer, "-",
                    spec.first_layer + spec.num_layers - 1);
  }
  if (spec.has_head) absl::StrAppend(&text, text.empty() ? "" : "+", "head");
  return text;
}

std::string StageTable(const RunConfig& config, const std::vector<StageSpec>& stages,
                       const parallel::Schedule& schedule) {
  const FlopsPerToken flops = ForwardFlops(config.model(), config.train().sequence_length());
  std::string text =
      absl::StrFormat("  %5s  %-7s %-20s %8s\n", "stage", "pipe", "layers", "forward");
  std::vector<double> of_rank(schedule.num_ranks(), 0.0);
  for (size_t s = 0; s < stages.size(); ++s) {
    std::string ranks;
    for (const std::vector<int>& rank_of_stage : schedule.rank_of_stage) {
      absl::StrAppend(&ranks, ranks.empty() ? "" : ", ", rank_of_stage[s]);
    }
    const double share = StageFlops(config.model(), stages[s], flops) / flops.total;
    for (const std::vector<int>& rank_of_stage : schedule.rank_of_stage) {
      of_rank[rank_of_stage[s]] += share / schedule.num_replicas();
    }
    absl::StrAppendFormat(&text, "  %5d  %-7s %-20s %7.1f%%\n", s, ranks, ToText(stages[s]),
                          100 * share);
  }
  absl::StrAppendFormat(
      &text, "  the slowest rank takes %.2f times the mean\n",
      *std::max_element(of_rank.begin(), of_rank.end()) * static_cast<double>(of_rank.size()));
  return text;
}

}  // namespace sluice::trainer
