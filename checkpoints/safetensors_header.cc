#include "checkpoints/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;
using Json = nlohmann::json;

constexpr absl::string_view kMetadata = "__metadata__";
constexpr int kMostDepth = 3;  // header, tensor, shape

// Messages quote names from the file: printable and short.
std::string Quoted(absl::string_view name) {
  std::string text = "\"";
  for (const char c : name.substr(0, 200)) text += c >= ' ' && c <= '~' ? c : '?';
  return text + (name.size() > 200 ? "...\"" : "\"");
}

// The parsed header; DATA_LOSS if it is no JSON object, nests too deeply or repeats a key.
absl::StatusOr<Json> ParseObject(absl::string_view json) {
  // The keys of the objects around the current place; the library itself would keep the last of two
  // equal ones without a word.
  std::vector<std::set<std::string>> keys;
  std::string repeated;
  bool is_too_deep = false;
  const Json::parser_callback_t watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    const bool is_start =
        event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (is_start && depth >= kMostDepth) is_too_deep = true;
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get_ref<const std::string&>()).second)
      repeated = parsed.get<std::string>();
    return true;
  };
  Json parsed = Json::parse(json.begin(), json.end(), watch, /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object())
    return absl::DataLossError("the header is no JSON object");
  if (!repeated.empty())
    return absl::DataLossError(absl::StrCat("the header has ", Quoted(repeated), " twice"));
  if (is_too_deep) return absl::DataLossError("the header nests too deeply");
  return parsed;
}

// A non-negative integer below 2^62.
std::optional<int64_t> Count(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t number = value.get<uint64_t>();
  if (number >= uint64_t{1} << 62) return std::nullopt;
  return static_cast<int64_t>(number);
}

std::optional<std::vector<int64_t>> Counts(const Json& values) {
  if (!values.is_array()) return std::nullopt;
  std::vector<int64_t> counts;
  for (const Json& value : values) {
    const std::optional<int64_t> count = Count(value);
    if (!count) return std::nullopt;
    counts.push_back(*count);
  }
  return counts;
}

absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name, const Json& value,
                                            int64_t data_bytes) {
  const auto error = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("tensor ", Quoted(name), ": ", what));
  };
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets") || !value["dtype"].is_string())
    return error("its entry is not {dtype, shape, data_offsets}");
  const std::string& dtype_name = value["dtype"].get_ref<const std::string&>();
  const std::optional<DType> dtype = SafetensorsTypeNamed(dtype_name);
  if (!dtype)
    return absl::UnimplementedError(absl::StrCat("tensor ", Quoted(name), ": element type ",
                                                 Quoted(dtype_name),
                                                 " is not one of F32, BF16, F64, I32, I64, U8, "
                                                 "F8_E4M3"));
  const std::optional<std::vector<int64_t>> shape = Counts(value["shape"]);
  if (!shape) return error("its shape is not a list of counts");
  const absl::StatusOr<int64_t> elements = NumElements(*shape);
  if (!elements.ok()) return error(elements.status().message());
  const std::optional<std::vector<int64_t>> offsets = Counts(value["data_offsets"]);
  if (!offsets || offsets->size() != 2 || (*offsets)[0] > (*offsets)[1])
    return error("its data_offsets are not [begin, end]");
  if ((*offsets)[1] > data_bytes)
    return error(
        absl::StrCat("its data ends at byte ", (*offsets)[1], ", the file has only ", data_bytes));
  const int64_t bytes = *elements * static_cast<int64_t>(kernels::SizeOf(*dtype));
  if ((*offsets)[1] - (*offsets)[0] != bytes)
    return error(absl::StrCat("its data_offsets span ", (*offsets)[1] - (*offsets)[0],
                              " bytes, its type and shape need ", bytes));
  return SafetensorsEntry{name, *dtype, *shape, (*offsets)[0], bytes};
}

// Whether the entries, sorted by offset, fill [0, data_bytes) without hole or overlap.
absl::Status CheckTiling(const std::vector<SafetensorsEntry>& tensors, int64_t data_bytes) {
  int64_t end = 0;
  for (const SafetensorsEntry& tensor : tensors) {
    if (tensor.offset != end)
      return absl::DataLossError(
          absl::StrCat("tensor ", Quoted(tensor.name), ": its data starts at byte ", tensor.offset,
                       tensor.offset < end ? " inside another tensor's, which ends at byte "
                                           : " with a hole before it from byte ",
                       end));
    end += tensor.bytes;
  }
  if (end == data_bytes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(data_bytes - end, " bytes after the last tensor belong to none"));
}

}  // namespace

absl::string_view SafetensorsNameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kI32:
      return "I32";
    case DType::kI64:
      return "I64";
    case DType::kU8:
      return "U8";
    case DType::kF64:
      return "F64";
    case DType::kE4M3:
      return "F8_E4M3";
  }
  CHECK(false) << static_cast<int>(dtype);
  return "";
}

std::optional<DType> SafetensorsTypeNamed(absl::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64, DType::kI32, DType::kI64,
                            DType::kU8, DType::kE4M3}) {
    if (SafetensorsNameOf(dtype) == name) return dtype;
  }
  return std::nullopt;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json,
                                                         int64_t data_bytes) {
  if (json.empty() || json[0] != '{') return absl::DataLossError("the header is no JSON object");
  ASSIGN_OR_RETURN(const Json parsed, ParseObject(json));
  SafetensorsHeader header;
  for (const auto& [name, value] : parsed.items()) {
    if (name != kMetadata) {
      ASSIGN_OR_RETURN(SafetensorsEntry entry, ParseEntry(name, value, data_bytes));
      header.tensors.push_back(std::move(entry));
      continue;
    }
    if (!value.is_object()) return absl::DataLossError("__metadata__ is no object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string())
        return absl::DataLossError(absl::StrCat("__metadata__ ", Quoted(key), " is no text"));
      header.metadata[key] = text.get<std::string>();
    }
  }
  // Empty tensors before the one that starts where they lie.
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
            });
  RETURN_IF_ERROR(CheckTiling(header.tensors, data_bytes));
  return header;
}

absl::StatusOr<std::string> MakeSafetensorsHeader(const SafetensorsHeader& header) {
  // Ordered, so that the header lists tensors as the data has them.
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!header.metadata.empty()) json[std::string(kMetadata)] = header.metadata;
  std::set<absl::string_view> names;
  for (const SafetensorsEntry& tensor : header.tensors) {
    if (tensor.name.empty() || tensor.name == kMetadata || !names.insert(tensor.name).second)
      return absl::InvalidArgumentError(
          absl::StrCat("tensor name ", Quoted(tensor.name), " is empty, reserved or there twice"));
    json.push_back({tensor.name,
                    {{"dtype", std::string(SafetensorsNameOf(tensor.dtype))},
                     {"shape", tensor.shape},
                     {"data_offsets", {tensor.offset, tensor.offset + tensor.bytes}}}});
  }
  std::string text;
  try {
    text = json.dump();
  } catch (const nlohmann::json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("a tensor name is not UTF-8: ", e.what()));
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace sluice::checkpoints
