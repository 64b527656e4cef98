#include "checkpoints/huggingface/layout.h"

#include <map>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "checkpoints/tensor_piece.h"

namespace sluice::checkpoints {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

std::string LayoutText(const std::vector<FileLayout>& files) {
  Json list = Json::array();
  for (const FileLayout& file : files) {
    Json tensors = Json::array();
    for (const SafetensorsEntry& tensor : file.tensors) {
      tensors.push_back({tensor.name, std::string(SafetensorsNameOf(tensor.dtype)), tensor.shape});
    }
    list.push_back({{"name", file.name}, {"metadata", file.metadata}, {"tensors", tensors}});
  }
  return list.dump(-1, ' ', true, Json::error_handler_t::replace);
}

absl::StatusOr<std::vector<FileLayout>> ParseLayout(absl::string_view text) {
  std::vector<FileLayout> files;
  try {
    for (const Json& file : Json::parse(text.begin(), text.end())) {
      FileLayout layout{
          file.at("name").get<std::string>(), file.at("metadata").get<SafetensorsMetadata>(), {}};
      for (const Json& tensor : file.at("tensors")) {
        SafetensorsEntry entry;
        entry.name = tensor.at(0).get<std::string>();
        const auto dtype = SafetensorsTypeNamed(tensor.at(1).get<std::string>());
        if (!dtype) return absl::DataLossError("the checkpoint's record of its source is damaged");
        entry.dtype = *dtype;
        entry.shape = tensor.at(2).get<std::vector<int64_t>>();
        layout.tensors.push_back(std::move(entry));
      }
      files.push_back(std::move(layout));
    }
  } catch (const nlohmann::json::exception& e) {
    return absl::DataLossError(
        absl::StrCat("the checkpoint's record of its source is not readable: ", e.what()));
  }
  return files;
}

std::string IndexText(const std::vector<FileLayout>& files) {
  int64_t total = 0;
  std::map<std::string, std::string> file_of;
  for (const FileLayout& file : files) {
    for (const SafetensorsEntry& tensor : file.tensors) {
      file_of[tensor.name] = file.name;
      total += *NumElements(tensor.shape) * static_cast<int64_t>(kernels::SizeOf(tensor.dtype));
    }
  }
  Json index;
  index["metadata"]["total_size"] = total;
  index["weight_map"] = file_of;
  return index.dump(2) + "\n";
}

}  // namespace sluice::checkpoints
