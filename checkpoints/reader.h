// Reads checkpoints: any flat range of any tensor, however the run that wrote it was cut.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoints/file_system.h"
#include "checkpoints/manifest.pb.h"
#include "checkpoints/tensor_piece.h"

namespace sluice::checkpoints {

// Prefixes of a run's weights and of their moving average in tensor names.
inline constexpr char kMasterPrefix[] = "master/", kAveragePrefix[] = "ema/";

// What a reader shows as the weights: the masters, or in their place and under their names the
// moving average.
enum class WeightSet : uint8_t { kMasters, kAverage };

class CheckpointReader {  // one thread; any number of readers of the same generation
 public:
  // Reads and checks the manifest, no tensor yet. NOT_FOUND if there is no committed checkpoint in
  // `generation_dir`, DATA_LOSS if the manifest is damaged, FAILED_PRECONDITION if a newer Sluice
  // wrote it, or if it has no average and that is wanted.
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(
      FileSystem& files, const std::string& generation_dir,
      WeightSet weights = WeightSet::kMasters);

  // Fills `out` (piece.bytes() bytes) with elements [begin, end), and checks the CRC32C of every
  // chunk it touches. NOT_FOUND: no such tensor. INVALID_ARGUMENT: another dtype or shape than the
  // checkpoint's. DATA_LOSS: names file, tensor, element range, checksum found and wanted. On error
  // `out` holds anything.
  absl::Status Read(const TensorPiece& piece, void* out);

  // The tensor's record, null if there is none. tensors() ascend by name.
  const TensorRecord* Find(absl::string_view tensor) const;
  const google::protobuf::RepeatedPtrField<TensorRecord>& tensors() const {
    return manifest_.tensors();
  }
  int64_t step() const { return manifest_.step(); }
  const RunMetadata& metadata() const { return manifest_.metadata(); }
  const Manifest& manifest() const { return manifest_; }
  const std::string& generation_dir() const { return generation_dir_; }

 private:
  CheckpointReader(FileSystem& files, std::string generation_dir, Manifest manifest);
  struct Slice;
  absl::Status ReadFromPiece(const Slice& slice, char* out);
  absl::Status ReadChunk(const Slice& slice, int chunk, std::span<char> bytes);
  absl::StatusOr<ReadableFile*> OpenShard(int file);

  FileSystem& files_;
  const std::string generation_dir_;
  const Manifest manifest_;
  std::vector<std::unique_ptr<ReadableFile>> shards_;  // opened on first use
  int num_open_ = 0;
  // The newest chunk that was only partly asked for, checked: neighbours often want its rest.
  std::vector<char> buffer_;
  const PieceRecord* buffered_piece_ = nullptr;
  int buffered_chunk_ = 0;
};

// OK if every byte of the generation is as it was written: the manifest, each file's size, each
// chunk and each whole file. Else the first thing found, as Open and Read say it. Reads everything
// once, through a buffer of one chunk. (It can only see what the operating system hands out: right
// after a save that is its cache, not the disk.)
absl::Status Verify(FileSystem& files, const std::string& generation_dir);

using LogFunction = std::function<void(absl::string_view message)>;

struct Generation {
  std::string path;
  int64_t step = 0;
  std::string attempt;
  bool is_committed = false;  // there is a MANIFEST
  absl::Status status;        // of its manifest and its files' sizes, if committed
  int64_t created_unix_ms = 0;
};

// All generations in `dir`, the newest first: by step, then by time of commit. Reads manifests and
// sizes only. NOT_FOUND if `dir` does not exist.
absl::StatusOr<std::vector<Generation>> ListGenerations(FileSystem& files, const std::string& dir);

// The newest generation in `dir` that verifies. Each one that is passed over is named in the log
// with the reason. NOT_FOUND if nothing was ever committed there; DATA_LOSS if something was but
// none is whole; other errors (no permission, too many open files, a newer format) are returned
// rather than taken for damage.
absl::StatusOr<Generation> FindNewestGood(FileSystem& files, const std::string& dir,
                                          const LogFunction& log);

}  // namespace sluice::checkpoints
