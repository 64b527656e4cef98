#include "checkpoints/huggingface/source_model.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoints/huggingface/layout.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMostIndexBytes = 200'000'000;
constexpr int kMostDepth = 8;  // the library's writer recurses

// Tensor -> file, as the index says.
absl::StatusOr<std::map<std::string, std::string>> ParseIndex(const std::string& path,
                                                              const std::string& text) {
  const auto error = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(path, ": ", what));
  };
  // The library keeps the last of two equal keys without a word.
  std::set<std::string> keys;
  std::string repeated;
  bool is_too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    is_too_deep = is_too_deep || depth > kMostDepth;
    if (event == Json::parse_event_t::key && depth == 2 &&
        !keys.insert(parsed.get<std::string>()).second) {
      repeated = parsed.get<std::string>();
    }
    if (event == Json::parse_event_t::object_end) keys.clear();
    return true;
  };
  const Json parsed = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object() || !parsed.contains("weight_map") ||
      !parsed["weight_map"].is_object()) {
    return error("found no JSON object with a weight_map");
  }
  if (is_too_deep) return error("it nests too deeply");
  if (!repeated.empty()) return error(absl::StrCat("tensor ", repeated, " is there twice"));
  std::map<std::string, std::string> file_of;
  for (const auto& [tensor, file] : parsed["weight_map"].items()) {
    if (!file.is_string() || !IsPlainName(file.get<std::string>())) {
      return error(absl::StrCat("tensor ", tensor, ": found ",
                                file.dump(-1, ' ', true, Json::error_handler_t::replace),
                                ", wanted the name of a file in the same directory"));
    }
    file_of[tensor] = file.get<std::string>();
  }
  if (file_of.empty()) return error("its weight_map is empty");
  return file_of;
}

}  // namespace

bool IsPlainName(const std::string& name) {
  if (name.empty() || name.size() > 255 || name[0] == '.') return false;
  for (const char c : name) {
    if (c == '/' || c == '\\' || static_cast<unsigned char>(c) < ' ') return false;
  }
  return true;
}

absl::Status SourceModel::Add(FileSystem& files, const std::string& dir, const std::string& name) {
  ASSIGN_OR_RETURN(auto reader, SafetensorsReader::Open(files, JoinPath(dir, name)));
  const int file = static_cast<int>(files_.size());
  for (const SafetensorsEntry& entry : reader->tensors()) {
    const auto [place, is_new] = places_.emplace(entry.name, Place{file, &entry});
    if (!is_new) {
      return absl::DataLossError(absl::StrCat(dir, ": tensor ", entry.name, " is in two files, ",
                                              files_[place->second.file].name, " and ", name));
    }
    total_bytes_ += entry.bytes;
  }
  files_.push_back({name, std::move(reader)});
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SourceModel>> SourceModel::Open(FileSystem& files,
                                                               const std::string& dir) {
  std::unique_ptr<SourceModel> model(new SourceModel());
  const std::string index_path = JoinPath(dir, kIndexName);
  const absl::StatusOr<std::string> index = ReadWholeFile(files, index_path, kMostIndexBytes);
  if (absl::IsNotFound(index.status())) {
    const absl::Status added = model->Add(files, dir, std::string(kSingleName));
    if (absl::IsNotFound(added)) {
      return absl::NotFoundError(
          absl::StrCat(dir, ": found neither ", kIndexName, " nor ", kSingleName));
    }
    if (!added.ok()) return added;
    return model;
  }
  RETURN_IF_ERROR(index.status());
  ASSIGN_OR_RETURN(const auto file_of, ParseIndex(index_path, *index));
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  for (const std::string& name : names) RETURN_IF_ERROR(model->Add(files, dir, name));
  for (const auto& [tensor, file] : file_of) {
    const auto place = model->places_.find(tensor);
    if (place == model->places_.end() || model->files_[place->second.file].name != file) {
      return absl::DataLossError(
          absl::StrCat(index_path, ": tensor ", tensor, " is not in ", file, ", where it says"));
    }
  }
  for (const auto& [tensor, place] : model->places_) {
    if (!file_of.contains(tensor)) {
      return absl::DataLossError(absl::StrCat(dir, ": tensor ", tensor, " in ",
                                              model->files_[place.file].name, " is not in ",
                                              kIndexName));
    }
  }
  return model;
}

const SafetensorsEntry* SourceModel::Find(const std::string& tensor) const {
  const auto place = places_.find(tensor);
  return place == places_.end() ? nullptr : place->second.entry;
}

absl::Status SourceModel::Read(const std::string& tensor, int64_t begin, std::span<char> out) {
  const auto place = places_.find(tensor);
  CHECK(place != places_.end()) << tensor;
  const SafetensorsEntry& entry = *place->second.entry;
  const int64_t size = static_cast<int64_t>(kernels::SizeOf(entry.dtype));
  CHECK(begin % size == 0 && out.size() % size == 0) << begin << " " << out.size();
  return files_[place->second.file].reader->Read(
      {tensor, entry.dtype, entry.shape, begin / size,
       (begin + static_cast<int64_t>(out.size())) / size},
      out.data());
}

}  // namespace sluice::checkpoints
