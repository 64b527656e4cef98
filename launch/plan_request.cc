#include "launch/plan_request.h"

#include <algorithm>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"
#include "launch/plan_input.h"
#include "trainer/loop/planned_step.h"
#include "trainer/loop/resolve_config.h"

namespace sluice::launch {
namespace {

using parallel::PlanRequest;

absl::Status Wrong(absl::string_view field, int found, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": found ", found, ", wanted ", wanted));
}

// Every field that some --set gives.
std::set<std::string> FieldsSet(const ConfigFlags& flags) {
  std::set<std::string> fields;
  for (const std::string& edit : flags.edits) fields.insert(edit.substr(0, edit.find('=')));
  return fields;
}

absl::Status NarrowMesh(const std::set<std::string>& is_set, const trainer::RunConfig& config,
                        PlanRequest& request) {
  const int ranks = request.cluster.num_ranks();
  const int layers = static_cast<int>(request.model.layers.size());
  for (const auto& [field, found, to] :
       {std::tuple("mesh.pipe", config.mesh().pipe(), &request.pipe),
        std::tuple("mesh.data", config.mesh().data(), &request.data),
        std::tuple("mesh.expert", config.mesh().expert(), &request.expert)}) {
    if (is_set.count(field) == 0) continue;
    if (found < 1 || ranks % found != 0)
      return Wrong(field, found, absl::StrCat("a divisor of the cluster's ", ranks, " ranks"));
    *to = found;
  }
  if (request.pipe > layers)
    return Wrong("mesh.pipe", request.pipe, absl::StrCat("at most the ", layers, " layers"));
  if (request.pipe > 0 && request.data > 0 && request.pipe * request.data != ranks) {
    return Wrong("mesh.data", request.data,
                 absl::StrCat(ranks / request.pipe, ", which with mesh.pipe ", request.pipe,
                              " makes the cluster's ", ranks, " ranks"));
  }
  const int experts = std::max(1, request.model.experts);
  if (request.expert > 0 && experts % request.expert != 0)
    return Wrong("mesh.expert", request.expert, absl::StrCat("a divisor of ", experts, " experts"));
  const int data = request.data > 0 ? request.data : ranks / std::max(1, request.pipe);
  if (request.expert > 0 && data % request.expert != 0)
    return Wrong("mesh.expert", request.expert, absl::StrCat("a divisor of mesh.data = ", data));
  return absl::OkStatus();
}

absl::Status NarrowRest(const std::set<std::string>& is_set, const trainer::RunConfig& config,
                        PlanRequest& request) {
  if (is_set.count("stage_layers") > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("stage_layers: found \"", config.stage_layers(),
                     "\", wanted nothing: plan cuts the stages by cost (simulate takes it)"));
  }
  if (is_set.count("schedule_chunks") > 0) {
    request.chunks = config.schedule_chunks();
    if (request.chunks < 1) return Wrong("schedule_chunks", request.chunks, "at least 1");
  }
  if (is_set.count("train.microbatch") > 0) {
    request.microbatch_sizes = {config.train().microbatch()};
    if (config.train().microbatch() < 1)
      return Wrong("train.microbatch", config.train().microbatch(), "at least 1");
  }
  if (is_set.count("compute.recompute") > 0) {
    RETURN_IF_ERROR(trainer::ParseRecompute(config.compute().recompute()).status());
    ASSIGN_OR_RETURN(const parallel::RecomputeChoice choice,
                     trainer::ParseRecomputeChoice(config.compute().recompute()));
    request.recompute = {choice};
  }
  if (is_set.count("schedule") > 0) {
    const std::string name = absl::AsciiStrToLower(config.schedule());
    // A shape that every schedule takes: only the name can be wrong.
    RETURN_IF_ERROR(parallel::MakeSchedule(name, {2, 4, parallel::DefaultChunks(name)}).status());
    request.schedules = {name};
  }
  return absl::OkStatus();
}

absl::Status FillPrecisions(const std::set<std::string>& is_set, const trainer::RunConfig& config,
                            PlanRequest& request) {
  if (config.compute().has_precision()) {
    ASSIGN_OR_RETURN(const auto precision, trainer::ParsePrecision(config.compute().precision()));
    request.precisions = {precision};
  }
  const bool has_fp8 = request.cluster.device.peak_fp8 > 0;
  const bool is_fp32 =
      request.precisions == std::vector<parallel::Precision>{parallel::Precision::kFp32};
  if (is_set.count("compute.precision") == 0 && has_fp8 && !is_fp32)
    request.precisions = {parallel::Precision::kBf16, parallel::Precision::kFp8};
  return absl::OkStatus();
}

absl::Status FillZero(const std::string& stages, PlanRequest& request) {
  for (const absl::string_view word : absl::StrSplit(stages, ',', absl::SkipWhitespace())) {
    int stage = -1;
    if (!absl::SimpleAtoi(word, &stage) || stage < 0 || stage > 3) {
      return absl::InvalidArgumentError(
          absl::StrCat("--zero: found \"", word, "\", wanted stages of 0 to 3, as in 1,2,3"));
    }
    request.zero_stages.push_back(stage);
  }
  return absl::OkStatus();
}

absl::Status FillRoutes(const std::string& path, PlanRequest& request) {
  if (path.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(request.routes, LoadRoutes(path));
  const int found = static_cast<int>(request.routes[0].rows.size());
  if (found == request.model.experts) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--routes: found ", found, " experts a line, wanted ", request.model.experts));
}

}  // namespace

absl::StatusOr<PlanRequest> MakePlanRequest(const PlanFlags& flags, const ConfigFlags& config_flags,
                                            const trainer::RunConfig& config) {
  PlanRequest request;
  ASSIGN_OR_RETURN(request.model, LoadModelWork(config));
  ASSIGN_OR_RETURN(request.cluster, LoadCluster(flags.cluster, static_cast<int>(flags.nodes)));
  request.tokens = flags.tokens;
  RETURN_IF_ERROR(FillZero(flags.zero, request));
  request.global_batch = config.train().has_global_batch() ? config.train().global_batch() : 0;
  if (request.global_batch < 1) {
    return absl::InvalidArgumentError(
        "train.global_batch: found nothing, wanted the sequences of a step (--set "
        "train.global_batch=512)");
  }
  request.max_dollars = flags.budget;
  request.max_days = flags.deadline;
  request.expert_cv = flags.expert_cv;
  request.moment_bytes = config.train().moment_dtype() == "BF16" ? 2 : 4;
  const std::set<std::string> is_set = FieldsSet(config_flags);
  RETURN_IF_ERROR(FillPrecisions(is_set, config, request));
  RETURN_IF_ERROR(NarrowMesh(is_set, config, request));
  RETURN_IF_ERROR(NarrowRest(is_set, config, request));
  RETURN_IF_ERROR(FillRoutes(flags.routes, request));
  return request;
}

}  // namespace sluice::launch
