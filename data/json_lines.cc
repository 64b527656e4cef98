#include "data/json_lines.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sluice::data {
namespace {

absl::StatusOr<std::vector<int32_t>> ParseIds(const nlohmann::json& list) {
  if (!list.is_array()) return absl::InvalidArgumentError("\"ids\" is not a list");
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const nlohmann::json& value : list) {
    const bool fits =
        value.is_number_unsigned() && value.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
    if (!fits)
      return absl::InvalidArgumentError(
          absl::StrCat("\"ids\" holds ", value.dump(), ", wanted integers from 0 to 2147483647"));
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

}  // namespace

absl::StatusOr<JsonLine> ParseJsonLine(absl::string_view line) {
  try {
    const nlohmann::json json = nlohmann::json::parse(line.begin(), line.end());
    if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
    JsonLine result;
    if (const auto text = json.find("text"); text != json.end()) {
      if (!text->is_string()) return absl::InvalidArgumentError("\"text\" is not a string");
      result.text = text->get<std::string>();
    }
    if (const auto list = json.find("ids"); list != json.end()) {
      auto ids = ParseIds(*list);
      if (!ids.ok()) return ids.status();
      result.ids = *std::move(ids);
    }
    return result;
  } catch (const nlohmann::json::exception& e) {
    return absl::InvalidArgumentError(e.what());
  }
}

std::string IdsAsJsonLine(std::span<const int32_t> ids) {
  return absl::StrCat("{\"ids\": [", absl::StrJoin(ids, ", "), "]}");
}

std::string TextAsJsonLine(absl::string_view text) {
  using nlohmann::json;
  return absl::StrCat(
      "{\"text\": ", json(std::string(text)).dump(-1, ' ', false, json::error_handler_t::replace),
      "}");
}

}  // namespace sluice::data
