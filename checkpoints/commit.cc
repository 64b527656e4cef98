#include "checkpoints/commit.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/manifest.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

absl::Status CheckWriters(std::span<const ShardReceipt> receipts, int64_t step,
                          const std::string& attempt) {
  if (receipts.empty()) return absl::InternalError("a checkpoint without any writer");
  std::set<int> ranks;
  for (const ShardReceipt& receipt : receipts) {
    if (receipt.step() != step || receipt.attempt() != attempt) {
      return absl::InternalError(absl::StrCat("writer ", receipt.writer_rank(), " wrote ",
                                              GenerationName(receipt.step(), receipt.attempt()),
                                              ", not ", GenerationName(step, attempt)));
    }
    if (!ranks.insert(receipt.writer_rank()).second)
      return absl::InternalError(absl::StrCat("writer ", receipt.writer_rank(), " is there twice"));
  }
  const int num_writers = receipts[0].num_writers();
  for (int rank = 0; rank < num_writers; ++rank) {
    if (!ranks.contains(rank))
      return absl::InternalError(absl::StrCat("writer ", rank, " of ", num_writers, " is missing"));
  }
  return absl::OkStatus();
}

// Puts the receipts together; INTERNAL if two describe the same tensor differently.
absl::Status Merge(std::span<const ShardReceipt> receipts, Manifest& manifest) {
  std::map<std::string, TensorRecord> tensors;
  for (const ShardReceipt& receipt : receipts) {
    const int file = manifest.files_size();
    *manifest.add_files() = receipt.file();
    for (const TensorRecord& part : receipt.tensors()) {
      const auto [position, is_new] = tensors.try_emplace(part.name());
      TensorRecord& whole = position->second;
      if (is_new) {
        whole.set_name(part.name());
        whole.set_dtype(part.dtype());
        *whole.mutable_shape() = part.shape();
      } else if (whole.dtype() != part.dtype() ||
                 !std::equal(whole.shape().begin(), whole.shape().end(), part.shape().begin(),
                             part.shape().end())) {
        return absl::InternalError(absl::StrCat("tensor ", part.name(), ": writer ",
                                                receipt.writer_rank(), " says ", part.dtype(), " ",
                                                ShapeText(ShapeOf(part)), ", another one ",
                                                whole.dtype(), " ", ShapeText(ShapeOf(whole))));
      }
      for (const PieceRecord& piece : part.pieces()) {
        PieceRecord& added = *whole.add_pieces();
        added = piece;
        added.set_file(file);
      }
    }
  }
  for (auto& [name, tensor] : tensors) {
    std::sort(tensor.mutable_pieces()->begin(), tensor.mutable_pieces()->end(),
              [](const PieceRecord& a, const PieceRecord& b) { return a.begin() < b.begin(); });
    *manifest.add_tensors() = std::move(tensor);
  }
  return absl::OkStatus();
}

// Every writer's file must be visible to this rank: hosts that each write to a disk of their own
// would otherwise commit a checkpoint nobody can load.
absl::Status CheckVisible(FileSystem& files, const std::string& generation_dir,
                          const Manifest& manifest) {
  for (const FileRecord& file : manifest.files()) {
    const std::string path = JoinPath(generation_dir, file.name());
    absl::StatusOr<std::unique_ptr<ReadableFile>> opened = files.OpenFile(path);
    if (absl::IsNotFound(opened.status()))
      return absl::FailedPreconditionError(absl::StrCat(
          path, ": written by another rank but not visible here; is the directory shared?"));
    RETURN_IF_ERROR(opened.status());
    ASSIGN_OR_RETURN(const int64_t bytes, (*opened)->Size());
    if (bytes != file.bytes())
      return absl::FailedPreconditionError(absl::StrCat(path, ": its writer wrote ", file.bytes(),
                                                        " bytes, ", bytes, " are visible here"));
  }
  return absl::OkStatus();
}

absl::Status WriteDurably(FileSystem& files, const std::string& path, absl::string_view bytes) {
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files.CreateFile(path));
  RETURN_IF_ERROR(WriteAll(*file, bytes));
  RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace

std::string MakeAttemptId() {
  std::random_device device;
  const uint64_t random = (uint64_t{device()} << 32) | device();
  return absl::StrFormat("%016x", random);
}

absl::StatusOr<std::string> Commit(FileSystem& files, const std::string& dir, int64_t step,
                                   const std::string& attempt,
                                   std::span<const ShardReceipt> receipts,
                                   const RunMetadata& metadata) {
  RETURN_IF_ERROR(CheckWriters(receipts, step, attempt));
  Manifest manifest;
  manifest.set_format_version(kFormatVersion);
  manifest.set_step(step);
  manifest.set_attempt(attempt);
  RETURN_IF_ERROR(Merge(receipts, manifest));
  *manifest.mutable_metadata() = metadata;
  if (metadata.created_unix_ms() == 0) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    manifest.mutable_metadata()->set_created_unix_ms(
        std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
  }
  RETURN_IF_ERROR(CheckManifest(manifest, absl::StatusCode::kInternal));

  const std::string generation_dir = JoinPath(dir, GenerationName(step, attempt));
  RETURN_IF_ERROR(CheckVisible(files, generation_dir, manifest));
  // The manifest must not become durable before what it speaks of: the shard files' entries, the
  // generation's and the directory's own.
  RETURN_IF_ERROR(files.SyncDirectory(generation_dir));
  RETURN_IF_ERROR(files.SyncDirectory(dir));
  RETURN_IF_ERROR(files.SyncDirectory(ParentPath(dir)));
  const std::string temporary = JoinPath(generation_dir, kManifestTemporaryName);
  RETURN_IF_ERROR(WriteDurably(files, temporary, EncodeManifest(manifest)));
  RETURN_IF_ERROR(files.Rename(temporary, JoinPath(generation_dir, kManifestName)));
  RETURN_IF_ERROR(files.SyncDirectory(generation_dir));
  return generation_dir;
}

}  // namespace sluice::checkpoints
