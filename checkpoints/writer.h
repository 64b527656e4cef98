// Writes one rank's share of a checkpoint into one file. Any number of writers, on any number of
// machines with a common file system, each with its own rank; then one Commit with all receipts.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"
#include "checkpoints/manifest.pb.h"
#include "checkpoints/tensor_piece.h"

namespace sluice::checkpoints {

struct WriterOptions {
  int num_writers = 0;            // if not 0, Commit wants ranks 0 .. num_writers - 1
  int64_t chunk_bytes = 1 << 20;  // what one checksum covers: a multiple of 8, at most 1 GiB
};

class CheckpointWriter {  // one thread
 public:
  // Opens DIR/step-<step>-<attempt>/rank-<writer_rank>.shard, making the last two directories of
  // that path if they are missing (`dir` by the first writer; its parent must exist). `attempt` is
  // the same for all writers and never used before (MakeAttemptId): ALREADY_EXISTS otherwise. Other
  // errors as of FileSystem, INVALID_ARGUMENT for a bad step or attempt.
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Begin(
      FileSystem& files, const std::string& dir, int64_t step, const std::string& attempt,
      int writer_rank, const WriterOptions& options = {});

  // Appends a piece; `data` holds piece.bytes() bytes on the host. Nothing is copied and nothing
  // refers to `data` afterwards. An empty piece only declares its tensor. After an error every
  // later call returns the same error: the attempt has failed, give it up. INVALID_ARGUMENT if the
  // piece makes no sense or contradicts an earlier one of the same tensor.
  absl::Status Add(const TensorPiece& piece, const void* data);

  // Makes the file durable and closes it; the last call. The receipt can be serialized and sent to
  // the committing rank.
  absl::StatusOr<ShardReceipt> Finish();

 private:
  CheckpointWriter(std::string path, std::unique_ptr<WritableFile> file, ShardReceipt receipt);
  absl::Status AddRecord(const TensorPiece& piece, TensorRecord** record);
  absl::Status WriteChunks(const TensorPiece& piece, const void* data, PieceRecord& record);

  const std::string path_;
  std::unique_ptr<WritableFile> file_;
  ShardReceipt receipt_;
  std::map<std::string, int> index_of_tensor_;  // into receipt_.tensors
  absl::Status status_;
};

}  // namespace sluice::checkpoints
