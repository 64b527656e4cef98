#include "launch/plan_input.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"
#include "launch/json_text.h"
#include "launch/load_config.h"
#include "launch/presets.h"
#include "launch/suggest.h"
#include "trainer/model/model_config.h"
#include "trainer/model/plan_work.h"

namespace sluice::launch {
namespace {

constexpr uint64_t kMostRows = uint64_t{1} << 40;  // of an expert and step; sums stay exact

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

absl::StatusOr<parallel::RouteTrace> LoadRoutes(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile("--routes", path));
  parallel::RouteTrace trace;
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (line.empty()) continue;
    const Json row = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    const auto whole = [&row](const char* key) {
      return !row.contains(key) || row[key].is_number_integer();
    };
    const bool good = row.is_object() && whole("step") && whole("layer") && row.contains("rows") &&
                      row["rows"].is_array() && !row["rows"].empty() &&
                      std::all_of(row["rows"].begin(), row["rows"].end(), [](const Json& n) {
                        return n.is_number_unsigned() && n.get<uint64_t>() < kMostRows;
                      });
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
