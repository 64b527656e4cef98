// Reads and writes Hugging Face's safetensors files, by its README (github.com/huggingface/
// safetensors, section "Format"): 8 bytes of little-endian header length, the header as JSON -
// {"name": {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, ..., "__metadata__":
// {"text": "text"}} - then the tensors' bytes, row-major, little endian, without holes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoints/file_system.h"
#include "checkpoints/tensor_piece.h"

namespace sluice::checkpoints {

struct SafetensorsEntry {
  std::string name;
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<int64_t> shape;
  int64_t offset = 0;  // bytes from the start of the file; set by reader and writer
  int64_t bytes = 0;   // likewise
};

using SafetensorsMetadata = std::map<std::string, std::string>;

class SafetensorsWriter {  // one thread
 public:
  // Starts the file: all tensors must be known, their data follows in the same order. Replaces a
  // file at `path` when Finish succeeds, and not before. INVALID_ARGUMENT for a name that is empty,
  // there twice, not UTF-8 or "__metadata__", or a shape that makes no sense.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      FileSystem& files, const std::string& path, std::vector<SafetensorsEntry> tensors,
      const SafetensorsMetadata& metadata = {});
  // The next bytes of the data, in pieces of any size that may cross tensors.
  absl::Status Append(const void* data, int64_t bytes);
  // FAILED_PRECONDITION if bytes are missing.
  absl::Status Finish();

 private:
  SafetensorsWriter(FileSystem& files, std::string path, std::unique_ptr<WritableFile> file);
  FileSystem& files_;
  const std::string path_;
  std::unique_ptr<WritableFile> file_;
  int64_t missing_bytes_ = 0;
};

class SafetensorsReader {  // one thread
 public:
  // Reads and checks the header. DATA_LOSS, naming the tensor, for a header that is too long, is no
  // JSON, has a name twice, or offsets that leave the file, overlap, leave holes or do not fit
  // dtype and shape. UNIMPLEMENTED for an element type other than F32, BF16, F64, I32, I64, U8 and
  // F8_E4M3.
  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(FileSystem& files,
                                                                 const std::string& path);

  const std::vector<SafetensorsEntry>& tensors() const { return tensors_; }  // by offset
  const SafetensorsEntry* Find(absl::string_view name) const;                // null: none
  const SafetensorsMetadata& metadata() const { return metadata_; }
  // Elements [piece.begin, piece.end) into `out`. NOT_FOUND, INVALID_ARGUMENT for another dtype or
  // shape, errors of the file system. The format has no checksums.
  absl::Status Read(const TensorPiece& piece, void* out);

 private:
  SafetensorsReader(std::string path, std::unique_ptr<ReadableFile> file);
  const std::string path_;
  const std::unique_ptr<ReadableFile> file_;
  std::vector<SafetensorsEntry> tensors_;
  SafetensorsMetadata metadata_;
};

// What Hugging Face calls a type: "F32", "BF16", "F64", "I32", "I64", "U8", "F8_E4M3".
absl::string_view SafetensorsNameOf(kernels::DType dtype);
// The reverse; nothing for another name.
std::optional<kernels::DType> SafetensorsTypeNamed(absl::string_view name);

// Writes a file of whole tensors, data[i] belonging to tensors[i].
absl::Status WriteSafetensors(FileSystem& files, const std::string& path,
                              const std::vector<SafetensorsEntry>& tensors,
                              const std::vector<const void*>& data);

}  // namespace sluice::checkpoints
