// Which generations stay, and whether the next ones will fit.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "checkpoints/file_system.h"
#include "checkpoints/reader.h"
#include "checkpoints/tensor_piece.h"

namespace sluice::checkpoints {

// Removes what dead attempts left in `dir`: generations without a manifest. By one rank, before the
// writers of a save begin. Missing `dir` is fine.
absl::Status RemoveUnfinished(FileSystem& files, const std::string& dir, const LogFunction& log);

// By one rank, after Commit returned `committed_dir`: reads that generation back and, only if it
// verifies, deletes all older ones but the keep - 1 newest whose manifest and file sizes are right.
// Generations of later steps (of a run that had to fall back behind them) are left alone. The log
// names what is deleted. keep >= 1. DATA_LOSS if the new generation does not verify: nothing is
// deleted. A crash at any point leaves whole generations and unfinished ones, nothing else.
absl::Status ApplyRetention(FileSystem& files, const std::string& dir,
                            const std::string& committed_dir, int keep, const LogFunction& log);

// Bytes that a checkpoint of these pieces (of all writers) takes, its manifest estimated from
// above.
int64_t RequiredBytes(std::span<const TensorPiece> pieces);

// RESOURCE_EXHAUSTED, with both numbers, unless `required_bytes` can be written below `dir`, which
// need not exist yet.
absl::Status CheckFreeSpace(FileSystem& files, const std::string& dir, int64_t required_bytes);

}  // namespace sluice::checkpoints
