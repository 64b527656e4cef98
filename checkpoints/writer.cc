#include "checkpoints/writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/manifest.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

absl::Status MakeDirectoryIfMissing(FileSystem& files, const std::string& path) {
  absl::Status made = files.MakeDirectory(path);
  return absl::IsAlreadyExists(made) ? absl::OkStatus() : made;
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::string path, std::unique_ptr<WritableFile> file,
                                   ShardReceipt receipt)
    : path_(std::move(path)), file_(std::move(file)), receipt_(std::move(receipt)) {}

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CheckpointWriter::Begin(
    FileSystem& files, const std::string& dir, int64_t step, const std::string& attempt,
    int writer_rank, const WriterOptions& options) {
  CHECK(options.chunk_bytes > 0 && options.chunk_bytes <= 1 << 30 && options.chunk_bytes % 8 == 0)
      << options.chunk_bytes;
  CHECK_GE(writer_rank, 0);
  RETURN_IF_ERROR(CheckGenerationId(step, attempt));
  // Commit makes these directories durable.
  RETURN_IF_ERROR(MakeDirectoryIfMissing(files, dir));
  const std::string generation_dir = JoinPath(dir, GenerationName(step, attempt));
  RETURN_IF_ERROR(MakeDirectoryIfMissing(files, generation_dir));
  ShardReceipt receipt;
  receipt.set_step(step);
  receipt.set_attempt(attempt);
  receipt.set_writer_rank(writer_rank);
  receipt.set_num_writers(options.num_writers);
  receipt.mutable_file()->set_name(absl::StrFormat("rank-%05d.shard", writer_rank));
  receipt.mutable_file()->set_chunk_bytes(options.chunk_bytes);
  std::string path = JoinPath(generation_dir, receipt.file().name());
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files.CreateFile(path));
  return std::unique_ptr<CheckpointWriter>(
      new CheckpointWriter(std::move(path), std::move(file), std::move(receipt)));
}

absl::Status CheckpointWriter::Add(const TensorPiece& piece, const void* data) {
  CHECK(file_ != nullptr) << "Add after Finish";
  RETURN_IF_ERROR(status_);
  TensorRecord* record = nullptr;
  status_ = AddRecord(piece, &record);
  if (status_.ok() && piece.num_elements() > 0)
    status_ = WriteChunks(piece, data, *record->add_pieces());
  return status_;
}

absl::Status CheckpointWriter::AddRecord(const TensorPiece& piece, TensorRecord** record) {
  RETURN_IF_ERROR(CheckPiece(piece));
  const auto [position, is_new] =
      index_of_tensor_.try_emplace(piece.tensor, receipt_.tensors_size());
  if (is_new) {
    TensorRecord& made = *receipt_.add_tensors();
    made.set_name(piece.tensor);
    made.set_dtype(std::string(kernels::NameOf(piece.dtype)));
    made.mutable_shape()->Assign(piece.global_shape.begin(), piece.global_shape.end());
  }
  *record = receipt_.mutable_tensors(position->second);
  const bool is_same = (*record)->dtype() == kernels::NameOf(piece.dtype) &&
                       std::equal((*record)->shape().begin(), (*record)->shape().end(),
                                  piece.global_shape.begin(), piece.global_shape.end());
  if (is_same) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", piece.tensor, ": this piece says ", kernels::NameOf(piece.dtype), " ",
                   ShapeText(piece.global_shape), ", an earlier one ", (*record)->dtype(), " ",
                   ShapeText(ShapeOf(**record))));
}

absl::Status CheckpointWriter::WriteChunks(const TensorPiece& piece, const void* data,
                                           PieceRecord& record) {
  FileRecord& file = *receipt_.mutable_file();
  record.set_offset(file.bytes());
  record.set_begin(piece.begin);
  record.set_end(piece.end);
  absl::string_view rest(static_cast<const char*>(data), static_cast<size_t>(piece.bytes()));
  while (!rest.empty()) {
    const absl::string_view chunk = rest.substr(0, static_cast<size_t>(file.chunk_bytes()));
    record.add_chunk_crc32c(Crc32c(chunk.data(), chunk.size()));
    file.set_crc32c(ExtendCrc32c(file.crc32c(), chunk.data(), chunk.size()));
    if (absl::Status written = WriteAll(*file_, chunk); !written.ok()) {
      return absl::Status(written.code(),
                          absl::StrCat(written.message(), " (", chunk.size(), " bytes of tensor ",
                                       piece.tensor, " at byte ", file.bytes(), ")"));
    }
    file.set_bytes(file.bytes() + static_cast<int64_t>(chunk.size()));
    rest.remove_prefix(chunk.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<ShardReceipt> CheckpointWriter::Finish() {
  CHECK(file_ != nullptr) << "Finish twice";
  const std::unique_ptr<WritableFile> file = std::move(file_);
  RETURN_IF_ERROR(status_);
  RETURN_IF_ERROR(file->Sync());
  RETURN_IF_ERROR(file->Close());
  return std::move(receipt_);
}

}  // namespace sluice::checkpoints
