#include "launch/plan_input.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"
#include "launch/json_text.h"
#include "launch/load_config.h"
#include "launch/presets.h"
#include "launch/suggest.h"
#include "trainer/loop/resolve_config.h"
#include "trainer/model/model_config.h"
#include "trainer/model/plan_work.h"

namespace sluice::launch {
namespace {

bool LooksLikeFile(const std::string& name) {
  return name.find('/') != name.npos || name.find('.') != name.npos;
}

}  // namespace

absl::StatusOr<parallel::Cluster> LoadCluster(const std::string& name, int nodes) {
  std::string text, names;
  for (const Preset& cluster : Clusters()) {
    if (cluster.name == name) text = cluster.text;
    absl::StrAppend(&names, names.empty() ? "" : ", ", cluster.name);
  }
  if (text.empty()) {
    if (!LooksLikeFile(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--cluster: found \"", name, "\", wanted one of ", names, ", or a file"));
    }
    ASSIGN_OR_RETURN(text, ReadFile("--cluster", name));
  }
  parallel::ClusterProto proto;
  RETURN_IF_ERROR(ParseTextproto(text, name, proto));
  if (nodes > 0) proto.set_nodes(nodes);
  return parallel::ToCluster(proto);
}

absl::StatusOr<parallel::ModelWork> LoadModelWork(const trainer::RunConfig& config) {
  trainer::ModelConfig model = config.model();
  trainer::ResolveModel(model);
  RETURN_IF_ERROR(trainer::ValidateModel(model));
  const int64_t length =
      config.train().has_sequence_length() ? config.train().sequence_length() : 4096;
  return trainer::DescribeWork(model, length);
}

absl::StatusOr<parallel::Precision> ParsePrecision(const std::string& text) {
  const std::string lower = absl::AsciiStrToLower(text);
  if (lower == "fp32") return parallel::Precision::kFp32;
  if (lower == "bf16") return parallel::Precision::kBf16;
  if (lower == "fp8") return parallel::Precision::kFp8;
  return absl::InvalidArgumentError(
      absl::StrCat("precision: found \"", text, "\", wanted FP32, BF16 or FP8"));
}

absl::StatusOr<parallel::RecomputeChoice> ParseRecomputeChoice(const std::string& text) {
  if (text == "everything") {
    parallel::RecomputeChoice all;
    all.everything = true;
    return all;
  }
  ASSIGN_OR_RETURN(const trainer::Recompute r, trainer::ParseRecompute(text));
  parallel::RecomputeChoice choice;
  choice.norms = r.norm;
  choice.mla_up = r.mla_up;
  choice.swiglu = r.swiglu;
  return choice;
}

absl::StatusOr<parallel::Layout> LayoutOf(const trainer::RunConfig& config, int ranks) {
  parallel::Layout layout;
  layout.pipe = std::max(1, config.mesh().pipe());
  layout.expert = std::max(1, config.mesh().expert());
  layout.data = config.mesh().has_data() ? config.mesh().data() : ranks / layout.pipe;
  layout.schedule = absl::AsciiStrToLower(config.has_schedule() ? config.schedule() : "1f1b");
  const bool two = layout.schedule == "interleaved" || layout.schedule == "dualpipe_v";
  layout.chunks = config.has_schedule_chunks() ? config.schedule_chunks() : (two ? 2 : 1);
  layout.microbatch = std::max(1, config.train().microbatch());
  layout.moment_bytes = config.train().moment_dtype() == "BF16" ? 2 : 4;
  const std::string precision =
      config.compute().has_precision() ? config.compute().precision() : "BF16";
  ASSIGN_OR_RETURN(layout.precision, ParsePrecision(precision));
  ASSIGN_OR_RETURN(layout.recompute, ParseRecomputeChoice(config.compute().recompute()));
  return layout;
}

absl::StatusOr<parallel::RouteTrace> LoadRoutes(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile("--routes", path));
  parallel::RouteTrace trace;
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (line.empty()) continue;
    const Json row = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    const bool good = row.is_object() && row.contains("rows") && row["rows"].is_array() &&
                      std::all_of(row["rows"].begin(), row["rows"].end(),
                                  [](const Json& n) { return n.is_number_unsigned(); });
    if (!good || (!trace.empty() && row["rows"].size() != trace[0].rows.size())) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ":", line_number,
          ": wanted {\"step\": n, \"layer\": n, \"rows\": [count of each expert]} with "
          "as many experts as the first line"));
    }
    trace.push_back({row.value("step", int64_t{0}), row.value("layer", 0),
                     row["rows"].get<std::vector<int64_t>>()});
  }
  if (trace.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": holds no routes"));
  return trace;
}

}  // namespace sluice::launch
