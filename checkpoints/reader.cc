#include "checkpoints/reader.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "checkpoints/manifest.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {

using kernels::DType;

// Elements [begin, end) of one stored piece.
struct CheckpointReader::Slice {
  const TensorRecord& tensor;
  const PieceRecord& piece;
  const FileRecord& file;
  int64_t element_bytes;
  int64_t begin, end;

  int64_t piece_bytes() const { return (piece.end() - piece.begin()) * element_bytes; }
  // Bytes of a chunk, counted from the start of the piece.
  int64_t ChunkBegin(int chunk) const { return chunk * file.chunk_bytes(); }
  int64_t ChunkEnd(int chunk) const {
    return std::min(piece_bytes(), ChunkBegin(chunk) + file.chunk_bytes());
  }
};

CheckpointReader::CheckpointReader(FileSystem& files, std::string generation_dir, Manifest manifest)
    : files_(files),
      generation_dir_(std::move(generation_dir)),
      manifest_(std::move(manifest)),
      shards_(static_cast<size_t>(manifest_.files_size())) {}

namespace {

// The averages take the place and the names of the masters.
absl::Status ShowAverage(const std::string& generation_dir, Manifest& manifest) {
  auto& tensors = *manifest.mutable_tensors();
  const auto begins_with = [](const TensorRecord& tensor, absl::string_view prefix) {
    return absl::StartsWith(tensor.name(), prefix);
  };
  const auto is_average = [&](const TensorRecord& t) { return begins_with(t, kAveragePrefix); };
  if (std::none_of(tensors.begin(), tensors.end(), is_average)) {
    return absl::FailedPreconditionError(
        absl::StrCat("checkpoint ", generation_dir,
                     " has no average of its weights, wanted one of a run with train.ema_decay"));
  }
  tensors.erase(
      std::remove_if(tensors.begin(), tensors.end(),
                     [&](const TensorRecord& t) { return begins_with(t, kMasterPrefix); }),
      tensors.end());
  for (TensorRecord& tensor : tensors) {
    absl::string_view name = tensor.name();
    if (!absl::ConsumePrefix(&name, kAveragePrefix)) continue;
    tensor.set_name(absl::StrCat(kMasterPrefix, name));
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorRecord& a, const TensorRecord& b) { return a.name() < b.name(); });
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::Open(
    FileSystem& files, const std::string& generation_dir, WeightSet weights) {
  ASSIGN_OR_RETURN(Manifest manifest, ReadManifest(files, generation_dir));
  if (weights == WeightSet::kAverage) RETURN_IF_ERROR(ShowAverage(generation_dir, manifest));
  return std::unique_ptr<CheckpointReader>(
      new CheckpointReader(files, generation_dir, std::move(manifest)));
}

const TensorRecord* CheckpointReader::Find(absl::string_view tensor) const {
  const auto found =
      std::lower_bound(tensors().begin(), tensors().end(), tensor,
                       [](const TensorRecord& a, absl::string_view b) { return a.name() < b; });
  return found != tensors().end() && found->name() == tensor ? &*found : nullptr;
}

absl::Status CheckpointReader::Read(const TensorPiece& piece, void* out) {
  RETURN_IF_ERROR(CheckPiece(piece));
  const TensorRecord* tensor = Find(piece.tensor);
  if (tensor == nullptr)
    return absl::NotFoundError(
        absl::StrCat("checkpoint ", generation_dir_, " has no tensor ", piece.tensor));
  if (tensor->dtype() != kernels::NameOf(piece.dtype) ||
      !std::equal(tensor->shape().begin(), tensor->shape().end(), piece.global_shape.begin(),
                  piece.global_shape.end())) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint ", generation_dir_, ": tensor ", piece.tensor, " is ",
                     tensor->dtype(), " ", ShapeText(ShapeOf(*tensor)), ", wanted ",
                     kernels::NameOf(piece.dtype), " ", ShapeText(piece.global_shape)));
  }
  const int64_t element_bytes = static_cast<int64_t>(kernels::SizeOf(piece.dtype));
  auto stored = std::upper_bound(
      tensor->pieces().begin(), tensor->pieces().end(), piece.begin,
      [](int64_t element, const PieceRecord& record) { return element < record.end(); });
  for (int64_t begin = piece.begin; begin < piece.end; ++stored) {
    CHECK(stored != tensor->pieces().end());  // the checked manifest covers the tensor
    const int64_t end = std::min(piece.end, stored->end());
    const Slice slice{*tensor, *stored, manifest_.files(stored->file()), element_bytes, begin, end};
    RETURN_IF_ERROR(
        ReadFromPiece(slice, static_cast<char*>(out) + (begin - piece.begin) * element_bytes));
    begin = end;
  }
  return absl::OkStatus();
}

absl::Status CheckpointReader::ReadFromPiece(const Slice& slice, char* out) {
  const int64_t begin = (slice.begin - slice.piece.begin()) * slice.element_bytes;
  const int64_t end = (slice.end - slice.piece.begin()) * slice.element_bytes;
  const int first = static_cast<int>(begin / slice.file.chunk_bytes());
  const int last = static_cast<int>((end - 1) / slice.file.chunk_bytes());
  for (int chunk = first; chunk <= last; ++chunk) {
    const int64_t chunk_begin = slice.ChunkBegin(chunk), chunk_end = slice.ChunkEnd(chunk);
    const size_t chunk_bytes = static_cast<size_t>(chunk_end - chunk_begin);
    if (begin <= chunk_begin && chunk_end <= end) {
      RETURN_IF_ERROR(ReadChunk(slice, chunk, {out + (chunk_begin - begin), chunk_bytes}));
      continue;
    }
    if (buffered_piece_ != &slice.piece || buffered_chunk_ != chunk) {
      buffered_piece_ = nullptr;
      buffer_.resize(chunk_bytes);
      RETURN_IF_ERROR(ReadChunk(slice, chunk, {buffer_.data(), chunk_bytes}));
      buffered_piece_ = &slice.piece;
      buffered_chunk_ = chunk;
    }
    const int64_t from = std::max(begin, chunk_begin), to = std::min(end, chunk_end);
    std::memcpy(out + (from - begin), buffer_.data() + (from - chunk_begin),
                static_cast<size_t>(to - from));
  }
  return absl::OkStatus();
}

absl::Status CheckpointReader::ReadChunk(const Slice& slice, int chunk, std::span<char> bytes) {
  ASSIGN_OR_RETURN(ReadableFile* const shard, OpenShard(slice.piece.file()));
  const int64_t chunk_begin = slice.ChunkBegin(chunk);
  const std::string path = JoinPath(generation_dir_, slice.file.name());
  RETURN_IF_ERROR(ReadExactly(*shard, path, slice.piece.offset() + chunk_begin, bytes));
  const uint32_t found = Crc32c(bytes.data(), bytes.size());
  const uint32_t wanted = slice.piece.chunk_crc32c(chunk);
  if (found == wanted) return absl::OkStatus();
  const int64_t first = slice.piece.begin() + chunk_begin / slice.element_bytes;
  return absl::DataLossError(absl::StrFormat(
      "%s: bytes [%d, %d) are damaged: tensor %s, elements [%d, %d), have CRC32C 0x%08x, written "
      "was 0x%08x",
      path, slice.piece.offset() + chunk_begin, slice.piece.offset() + slice.ChunkEnd(chunk),
      slice.tensor.name(), first, first + static_cast<int64_t>(bytes.size()) / slice.element_bytes,
      found, wanted));
}

absl::StatusOr<ReadableFile*> CheckpointReader::OpenShard(int file) {
  std::unique_ptr<ReadableFile>& shard = shards_[static_cast<size_t>(file)];
  if (shard != nullptr) return shard.get();
  const FileRecord& record = manifest_.files(file);
  const std::string path = JoinPath(generation_dir_, record.name());
  absl::StatusOr<std::unique_ptr<ReadableFile>> opened = files_.OpenFile(path);
  if (absl::IsNotFound(opened.status()))
    return absl::DataLossError(absl::StrCat(path, ": the manifest lists it but it is missing"));
  RETURN_IF_ERROR(opened.status());
  ASSIGN_OR_RETURN(const int64_t bytes, (*opened)->Size());
  if (bytes != record.bytes())
    return absl::DataLossError(
        absl::StrCat(path, ": the file has ", bytes, " bytes, written were ", record.bytes()));
  // A run of a thousand ranks has a thousand files; a process may often open just as many.
  constexpr int kMostOpen = 64;
  if (num_open_ == kMostOpen) {
    for (std::unique_ptr<ReadableFile>& other : shards_) other.reset();
    num_open_ = 0;
  }
  ++num_open_;
  shard = *std::move(opened);
  return shard.get();
}

}  // namespace sluice::checkpoints
