// The planner against training runs that others published: launch/published/*.textproto.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "launch/load_config.h"
#include "launch/plan_input.h"
#include "launch/presets.h"
#include "trainer/loop/planned_step.h"

namespace sluice::launch {
namespace {

using parallel::PublishedRun;

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
  if (run.head_alone()) layout.head_alone = parallel::HeadAlone::kAllowed;
  ASSIGN_OR_RETURN(layout.precision, trainer::ParsePrecision(run.precision()));
  ASSIGN_OR_RETURN(layout.recompute, trainer::ParseRecomputeChoice(run.recompute()));
  return layout;
}

double PublishedSeconds(const PublishedRun& run, const parallel::ModelWork& model) {
  if (run.step_seconds() > 0) return run.step_seconds();
  const double tokens = static_cast<double>(run.global_batch()) * run.sequence_length();
  const double rate = run.tokens_per_second_rank() > 0
                          ? run.tokens_per_second_rank()
                          : run.model_flops_rank() / model.flops_per_token_full;
  return tokens / run.ranks() / rate;
}

absl::Status Predict(double expert_cv, parallel::PlanCache& schedules, PublishedCheck& check) {
  const PublishedRun& run = check.run;
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
  absl::StatusOr<parallel::PlanEntry> entry =
      parallel::Evaluate(request, layout, schedules, parallel::Detail::kFull);
  if (!entry.ok()) {
    check.not_checkable = std::string(entry.status().message());
    return absl::OkStatus();
  }
  check.predicted = *std::move(entry);
  check.published_seconds = PublishedSeconds(run, request.model);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<PublishedCheck>> CheckPublishedRuns(double expert_cv) {
  std::vector<PublishedCheck> checks;
  parallel::PlanCache schedules;
  double sum = 0;
  int num = 0;
  for (const Preset& file : PublishedRuns()) {
    PublishedCheck check;
    RETURN_IF_ERROR(ParseTextproto(file.text, file.name, check.run));
    if (check.run.has_missing()) {
      check.not_checkable = absl::StrCat("missing: ", check.run.missing());
    } else {
      RETURN_IF_ERROR(Predict(expert_cv, schedules, check));
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
