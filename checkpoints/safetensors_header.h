// The header of a safetensors file, apart from the file: JSON text to entries and back. The only
// file here that knows the JSON library; nothing it throws leaves it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoints/safetensors.h"

namespace sluice::checkpoints {

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  // ascending by offset, which counts from the data's start
  SafetensorsMetadata metadata;
};

// Checks everything SafetensorsReader::Open promises; `data_bytes` is what follows the header.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json,
                                                         int64_t data_bytes);

// The JSON text, padded with spaces to a multiple of 8 bytes. INVALID_ARGUMENT as
// SafetensorsWriter::Create.
absl::StatusOr<std::string> MakeSafetensorsHeader(const SafetensorsHeader& header);

}  // namespace sluice::checkpoints
