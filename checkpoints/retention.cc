#include "checkpoints/retention.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/manifest.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

// Removing what somebody else has just removed is a success.
absl::Status Gone(absl::Status removed) {
  return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
}

absl::Status RemoveGeneration(FileSystem& files, const std::string& generation_dir) {
  // The manifest first, and durably: a generation that has one is whole, even while it goes.
  RETURN_IF_ERROR(Gone(files.RemoveFile(JoinPath(generation_dir, kManifestName))));
  RETURN_IF_ERROR(files.SyncDirectory(generation_dir));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files.ListDirectory(generation_dir));
  for (const std::string& name : names)
    RETURN_IF_ERROR(Gone(files.RemoveFile(JoinPath(generation_dir, name))));
  return Gone(files.RemoveDirectory(generation_dir));
}

}  // namespace

absl::Status RemoveUnfinished(FileSystem& files, const std::string& dir, const LogFunction& log) {
  absl::StatusOr<std::vector<Generation>> generations = ListGenerations(files, dir);
  if (absl::IsNotFound(generations.status())) return absl::OkStatus();
  RETURN_IF_ERROR(generations.status());
  for (const Generation& generation : *generations) {
    if (generation.is_committed) continue;
    log(absl::StrCat("unfinished checkpoint ", generation.path, " is removed"));
    RETURN_IF_ERROR(RemoveGeneration(files, generation.path));
  }
  return absl::OkStatus();
}

absl::Status ApplyRetention(FileSystem& files, const std::string& dir,
                            const std::string& committed_dir, int keep, const LogFunction& log) {
  CHECK_GE(keep, 1);
  RETURN_IF_ERROR(Verify(files, committed_dir));
  ASSIGN_OR_RETURN(const std::vector<Generation> generations, ListGenerations(files, dir));
  int num_kept = 0;  // from the committed one on
  for (const Generation& generation : generations) {
    if (generation.path == committed_dir) RETURN_IF_ERROR(generation.status);
    if (num_kept == 0 && generation.path != committed_dir) continue;
    if (num_kept < keep) {
      // A damaged one is no reserve, but it is not in the way either until enough good ones are.
      if (generation.status.ok()) ++num_kept;
      continue;
    }
    log(absl::StrCat("checkpoint ", generation.path, " is deleted, ", keep, " newer ones stay"));
    RETURN_IF_ERROR(RemoveGeneration(files, generation.path));
  }
  CHECK_GE(num_kept, 1) << committed_dir << " does not lie in " << dir;
  return absl::OkStatus();
}

int64_t RequiredBytes(std::span<const TensorPiece> pieces) {
  // A piece record: at most 50 bytes of numbers and their tags, and 4 of checksum per MiB; a tensor
  // record: its name, dtype and shape, counted once a piece. A file: a block of slack.
  int64_t bytes = 1 << 16;
  for (const TensorPiece& piece : pieces) {
    bytes += piece.bytes() + piece.bytes() / (1 << 17);
    bytes += 100 + static_cast<int64_t>(piece.tensor.size() + 10 * piece.global_shape.size());
  }
  return bytes;
}

absl::Status CheckFreeSpace(FileSystem& files, const std::string& dir, int64_t required_bytes) {
  std::string existing = dir;
  absl::StatusOr<int64_t> free = files.FreeBytes(existing);
  while (absl::IsNotFound(free.status()) && ParentPath(existing) != existing) {
    existing = ParentPath(existing);
    free = files.FreeBytes(existing);
  }
  RETURN_IF_ERROR(free.status());
  if (*free >= required_bytes) return absl::OkStatus();
  constexpr double kMiB = 1 << 20;
  return absl::ResourceExhaustedError(absl::StrFormat(
      "checkpoints in %s need %.1f MiB, only %.1f MiB are free", dir,
      static_cast<double>(required_bytes) / kMiB, static_cast<double>(*free) / kMiB));
}

}  // namespace sluice::checkpoints
