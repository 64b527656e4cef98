// Turns the files of an attempt into a checkpoint: writes its manifest. Until the manifest's rename
// is on disk there is no new checkpoint, afterwards there is a whole one.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"
#include "checkpoints/manifest.pb.h"

namespace sluice::checkpoints {

// 16 hexadecimal digits, new in every call and process.
std::string MakeAttemptId();

// By one rank, with the receipts of all writers, after every one of them has finished well. Checks
// that the pieces cover each tensor exactly once, that every file is there with the size its writer
// reported, then publishes. Returns the generation's directory.
// INTERNAL: a tensor with a gap, an overlap or two descriptions, a writer missing or there twice.
// FAILED_PRECONDITION: a file is not visible from here (the directory is not shared between hosts).
// Else what FileSystem says. After an error the attempt is lost and the older generations are
// untouched - only if the last directory sync fails, the new one may already be visible, and whole.
absl::StatusOr<std::string> Commit(FileSystem& files, const std::string& dir, int64_t step,
                                   const std::string& attempt,
                                   std::span<const ShardReceipt> receipts,
                                   const RunMetadata& metadata);

}  // namespace sluice::checkpoints
