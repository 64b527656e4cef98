// How a Hugging Face directory is cut into files: remembered by an import, so that an export can
// write the same files again.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoints/safetensors.h"

namespace sluice::checkpoints {

inline constexpr absl::string_view kIndexName = "model.safetensors.index.json";
inline constexpr absl::string_view kSingleName = "model.safetensors";
// Key of RunMetadata.info under which an import leaves its LayoutText.
inline constexpr char kLayoutKey[] = "huggingface_layout";

struct FileLayout {
  std::string name;
  SafetensorsMetadata metadata;           // the header's __metadata__
  std::vector<SafetensorsEntry> tensors;  // in file order: name, type and shape count
};

// JSON text and back; DATA_LOSS for another text.
std::string LayoutText(const std::vector<FileLayout>& files);
absl::StatusOr<std::vector<FileLayout>> ParseLayout(absl::string_view text);

// A file name that names a file in its directory and nothing else.
bool IsPlainName(const std::string& name);

// The index of more than one file, as huggingface_hub writes it.
std::string IndexText(const std::vector<FileLayout>& files);

}  // namespace sluice::checkpoints
