// The planner against training runs that others published: launch/published/*.textproto, or files
// of a user.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "launch/load_config.h"
#include "launch/plan_input.h"
#include "launch/presets.h"
#include "trainer/loop/planned_step.h"

namespace sluice::launch {
namespace {

using parallel::PublishedRun;

// The largest that the simulator plays in seconds, with room.
constexpr int kMostRanks = 1 << 17, kMostTokens = 1 << 24, kMostModules = 16;
constexpr double kMostActions = 5e7;  // of all groups together

absl::Status Within(absl::string_view field, int64_t found, int64_t least, int64_t most) {
  if (found >= least && found <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": found ", found, ", wanted ", least, " to ", most));
}

absl::Status Stated(absl::string_view field, const std::string& found, absl::string_view wanted) {
  if (!found.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": found nothing, wanted ", wanted));
}

bool IsResult(double value) { return value > 0 && std::isfinite(value); }

// What Predict divides by, and sizes that end in reasonable time.
absl::Status ValidateRun(const PublishedRun& run) {
  RETURN_IF_ERROR(Stated("preset", run.preset(), "the model, a name as of --preset"));
  RETURN_IF_ERROR(Stated("cluster", run.cluster(), "the machine, a name or file as of --cluster"));
  RETURN_IF_ERROR(Stated("schedule", run.schedule(), "1f1b, interleaved, ..."));
  RETURN_IF_ERROR(Stated("precision", run.precision(), "BF16 or FP8"));
  RETURN_IF_ERROR(Within("ranks", run.ranks(), 1, kMostRanks));
  for (const auto& [field, found] :
       {std::pair("pipe", run.pipe()), std::pair("expert", run.expert()),
        std::pair("tensor", run.tensor()), std::pair("context", run.context()),
        std::pair("chunks", run.chunks())}) {
    RETURN_IF_ERROR(Within(field, found, 0, kMostRanks));
  }
  RETURN_IF_ERROR(Within("microbatch", run.microbatch(), 1, kMostRanks));
  RETURN_IF_ERROR(
      Within("global_batch", run.global_batch(), 1, std::numeric_limits<int32_t>::max()));
  RETURN_IF_ERROR(Within("sequence_length", run.sequence_length(), 1, kMostTokens));
  RETURN_IF_ERROR(Within("gradient_reductions", run.gradient_reductions(), 0, kMostRanks));
  RETURN_IF_ERROR(Within("mtp_depth", run.mtp_depth(), 0, kMostModules));
  const auto size = [](int32_t value) { return std::max<int64_t>(1, value); };
  const int64_t apart = size(run.pipe()) * size(run.tensor()) * size(run.context());
  if (apart > run.ranks() || run.ranks() % apart != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ranks: found ", run.ranks(), ", wanted a multiple of pipe x tensor x context = ", apart));
  }
  const double actions = static_cast<double>(run.global_batch()) / run.microbatch() /
                         static_cast<double>(size(run.expert())) *
                         static_cast<double>(apart * size(run.chunks()));
  if (actions > kMostActions) {
    return absl::InvalidArgumentError(
        absl::StrCat("global_batch: found ", run.global_batch(), ", wanted at most ",
                     static_cast<int64_t>(run.global_batch() * (kMostActions / actions)),
                     " with these sizes, as each microbatch is played in each stage"));
  }
  if (run.routing() != "balanced" && run.routing() != "real") {
    return absl::InvalidArgumentError(
        absl::StrCat("routing: found \"", run.routing(), "\", wanted balanced (forced) or real"));
  }
  if (!IsResult(run.step_seconds()) && !IsResult(run.tokens_per_second_rank()) &&
      !IsResult(run.model_flops_rank()) && !IsResult(run.model_flops_causal_rank())) {
    return absl::InvalidArgumentError(
        "step_seconds: found nothing, wanted what was published: this, tokens_per_second_rank, "
        "model_flops_rank or model_flops_causal_rank");
  }
  return absl::OkStatus();
}

absl::StatusOr<parallel::Layout> PublishedLayout(const PublishedRun& run) {
  parallel::Layout layout;
  const auto at_least_one = [](int value) { return value > 0 ? value : 1; };
  layout.pipe = at_least_one(run.pipe());
  layout.tensor = at_least_one(run.tensor());
  layout.context = at_least_one(run.context());
  layout.expert = at_least_one(run.expert());
  layout.chunks = at_least_one(run.chunks());
  layout.data = run.ranks() / (layout.pipe * layout.tensor * layout.context);
  layout.schedule = run.schedule();
  layout.microbatch = run.microbatch();
  layout.zero = run.zero();
  layout.moment_bytes = run.moment_dtype() == "BF16" ? 2 : 4;
  layout.overlap =
      run.overlaps_exchange() ? parallel::Overlap::kNeighbours : parallel::Overlap::kNone;
  layout.overlap_gradients = run.overlaps_gradients();
  layout.exchange =
      run.flat_exchange() ? parallel::ExchangeKind::kFlat : parallel::ExchangeKind::kHierarchical;
  if (run.bf16_dispatch()) layout.dispatch = parallel::DispatchRows::kBf16;
  if (run.tensor_scaling()) layout.scaling = parallel::Fp8Scaling::kTensors;
  layout.head = parallel::HeadWork::kApart;
  layout.gradient_reductions = run.gradient_reductions();
  if (run.head_alone()) {
    layout.empty_ends =
        run.embedding_alone() ? parallel::EmptyEnds::kBoth : parallel::EmptyEnds::kHead;
  }
  ASSIGN_OR_RETURN(layout.precision, trainer::ParsePrecision(run.precision()));
  ASSIGN_OR_RETURN(layout.recompute, trainer::ParseRecomputeChoice(run.recompute()));
  return layout;
}

double PublishedSeconds(const PublishedRun& run, const parallel::ModelWork& model) {
  if (IsResult(run.step_seconds())) return run.step_seconds();
  const double tokens = static_cast<double>(run.global_batch()) * run.sequence_length();
  const double rate = IsResult(run.tokens_per_second_rank()) ? run.tokens_per_second_rank()
                      : IsResult(run.model_flops_rank())
                          ? run.model_flops_rank() / model.flops_per_token_full
                          : run.model_flops_causal_rank() / model.flops_per_token;
  return tokens / run.ranks() / rate;
}

absl::Status Predict(double expert_cv, parallel::PlanCache& schedules, PublishedCheck& check) {
  const PublishedRun& run = check.run;
  RETURN_IF_ERROR(ValidateRun(run));
  ConfigFlags flags;
  flags.preset = run.preset();
  ASSIGN_OR_RETURN(trainer::RunConfig config, LoadConfig(flags));
  config.mutable_train()->set_sequence_length(run.sequence_length());
  config.mutable_model()->set_num_nextn_predict_layers(run.mtp_depth());
  parallel::PlanRequest request;
  ASSIGN_OR_RETURN(request.model, LoadModelWork(config));
  ASSIGN_OR_RETURN(request.cluster, LoadCluster(run.cluster(), 0));
  request.cluster.nodes = std::max(1, run.ranks() / request.cluster.network.ranks_per_node);
  request.global_batch = run.global_batch();
  request.tokens = run.tokens();
  request.expert_cv = run.routing() == "real" ? expert_cv : 0.0;
  ASSIGN_OR_RETURN(const parallel::Layout layout, PublishedLayout(run));
  ASSIGN_OR_RETURN(check.predicted,
                   parallel::Evaluate(request, layout, schedules, parallel::Detail::kFull));
  check.published_seconds = PublishedSeconds(run, request.model);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<PublishedCheck>> CheckPublishedRuns(const std::vector<Preset>& runs,
                                                               double expert_cv) {
  std::vector<PublishedCheck> checks;
  parallel::PlanCache schedules;
  double sum = 0;
  int num = 0;
  for (const Preset& file : runs) {
    PublishedCheck check;
    RETURN_IF_ERROR(ParseTextproto(file.text, file.name, check.run));
    if (check.run.name().empty()) check.run.set_name(file.name);
    if (check.run.has_missing()) {
      check.not_checkable = absl::StrCat("missing: ", check.run.missing());
    } else {
      const absl::Status predicted = Predict(expert_cv, schedules, check);
      if (!predicted.ok()) {
        return absl::Status(predicted.code(), absl::StrCat(file.name, ": ", predicted.message()));
      }
    }
    if (check.not_checkable.empty()) {
      sum += std::log(check.published_seconds / check.predicted.step_seconds);
      ++num;
    }
    checks.push_back(std::move(check));
  }
  for (PublishedCheck& check : checks) {
    if (!check.not_checkable.empty() || num < 2) continue;
    const double own = std::log(check.published_seconds / check.predicted.step_seconds);
    check.left_out_seconds = check.predicted.step_seconds * std::exp((sum - own) / (num - 1));
  }
  return checks;
}

}  // namespace sluice::launch
