// The manifest: the file whose presence makes a generation a checkpoint. FORMAT.md has the bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoints/file_system.h"
#include "checkpoints/manifest.pb.h"
#include "checkpoints/tensor_piece.h"

namespace sluice::checkpoints {

inline constexpr int kFormatVersion = 1;
inline constexpr absl::string_view kManifestName = "MANIFEST";
inline constexpr absl::string_view kManifestTemporaryName = "MANIFEST.tmp";

// "step-0000000010-<attempt>", the directory of one attempt to save a step.
std::string GenerationName(int64_t step, absl::string_view attempt);
struct GenerationId {
  int64_t step = 0;
  std::string attempt;
};
// The reverse; nothing for a name of another form.
std::optional<GenerationId> ParseGenerationName(absl::string_view name);
// INVALID_ARGUMENT unless step >= 0 and attempt is 1 to 64 of [0-9a-zA-Z].
absl::Status CheckGenerationId(int64_t step, absl::string_view attempt);

// The manifest file's bytes: magic, version, length, message, CRC32C. Equal messages give equal
// bytes.
std::string EncodeManifest(const Manifest& manifest);
// DATA_LOSS if a byte is wrong, missing or too many; FAILED_PRECONDITION if a newer Sluice wrote
// it.
absl::StatusOr<Manifest> DecodeManifest(absl::string_view bytes);
// Reads, decodes and checks the manifest of a generation. NOT_FOUND if the save was never
// committed; DATA_LOSS if it is damaged, contradicts itself or belongs to another directory.
absl::StatusOr<Manifest> ReadManifest(FileSystem& files, const std::string& generation_dir);

// Whether the manifest makes sense: names and numbers in range, the pieces of each tensor cover it
// exactly once, the pieces of each file cover its bytes exactly once. Else a status of `code` that
// names the tensor or file and the first gap or overlap.
absl::Status CheckManifest(const Manifest& manifest, absl::StatusCode code);

inline std::span<const int64_t> ShapeOf(const TensorRecord& record) {
  return {record.shape().data(), static_cast<size_t>(record.shape_size())};
}
// The whole tensor of a checked record.
TensorPiece PieceOf(const TensorRecord& record);

}  // namespace sluice::checkpoints
