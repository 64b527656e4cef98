#include "checkpoints/safetensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoints/safetensors_header.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

constexpr int64_t kMostHeaderBytes = 100'000'000;  // the format's own limit
constexpr int64_t kLengthBytes = 8;

std::string TemporaryOf(const std::string& path) { return path + ".tmp"; }

absl::Status About(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat("safetensors file ", path, ": ", status.message()));
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(FileSystem& files, std::string path,
                                     std::unique_ptr<WritableFile> file)
    : files_(files), path_(std::move(path)), file_(std::move(file)) {}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    FileSystem& files, const std::string& path, std::vector<SafetensorsEntry> tensors,
    const SafetensorsMetadata& metadata) {
  int64_t offset = 0;
  for (SafetensorsEntry& tensor : tensors) {
    absl::StatusOr<int64_t> elements = NumElements(tensor.shape);
    if (!elements.ok()) return About(path, elements.status());
    tensor.offset = offset;
    tensor.bytes = *elements * static_cast<int64_t>(kernels::SizeOf(tensor.dtype));
    offset += tensor.bytes;
  }
  absl::StatusOr<std::string> header = MakeSafetensorsHeader({std::move(tensors), metadata});
  if (!header.ok()) return About(path, header.status());
  if (static_cast<int64_t>(header->size()) > kMostHeaderBytes)
    return absl::InvalidArgumentError(absl::StrCat("safetensors file ", path, ": a header of ",
                                                   header->size(), " bytes is too long"));
  // What an earlier process that died left behind.
  const absl::Status removed = files.RemoveFile(TemporaryOf(path));
  if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files.CreateFile(TemporaryOf(path)));
  const uint64_t length = header->size();
  RETURN_IF_ERROR(
      WriteAll(*file, absl::string_view(reinterpret_cast<const char*>(&length), kLengthBytes)));
  RETURN_IF_ERROR(WriteAll(*file, *header));
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(files, path, std::move(file)));
  writer->missing_bytes_ = offset;
  return writer;
}

absl::Status SafetensorsWriter::Append(const void* data, int64_t bytes) {
  CHECK(file_ != nullptr) << "Append after Finish";
  CHECK(bytes >= 0 && bytes <= missing_bytes_) << bytes << " of " << missing_bytes_;
  missing_bytes_ -= bytes;
  return WriteAll(*file_,
                  absl::string_view(static_cast<const char*>(data), static_cast<size_t>(bytes)));
}

absl::Status SafetensorsWriter::Finish() {
  CHECK(file_ != nullptr) << "Finish twice";
  const std::unique_ptr<WritableFile> file = std::move(file_);
  if (missing_bytes_ != 0)
    return absl::FailedPreconditionError(absl::StrCat("safetensors file ", path_, ": ",
                                                      missing_bytes_, " bytes were never written"));
  RETURN_IF_ERROR(file->Sync());
  RETURN_IF_ERROR(file->Close());
  RETURN_IF_ERROR(files_.Rename(TemporaryOf(path_), path_));
  return files_.SyncDirectory(ParentPath(path_));
}

SafetensorsReader::SafetensorsReader(std::string path, std::unique_ptr<ReadableFile> file)
    : path_(std::move(path)), file_(std::move(file)) {}

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(
    FileSystem& files, const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file, files.OpenFile(path));
  ASSIGN_OR_RETURN(const int64_t file_bytes, file->Size());
  uint64_t length = 0;
  if (file_bytes < kLengthBytes)
    return About(path, absl::DataLossError(absl::StrCat("it has only ", file_bytes, " bytes")));
  RETURN_IF_ERROR(
      ReadExactly(*file, path, 0, {reinterpret_cast<char*>(&length), size_t{kLengthBytes}}));
  const uint64_t most =
      static_cast<uint64_t>(std::min(kMostHeaderBytes, file_bytes - kLengthBytes));
  if (length > most)
    return About(path,
                 absl::DataLossError(absl::StrCat("its header claims ", length, " bytes, at most ",
                                                  most, " are possible")));
  std::string header(length, '\0');
  RETURN_IF_ERROR(ReadExactly(*file, path, kLengthBytes, {header.data(), header.size()}));
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(length);
  absl::StatusOr<SafetensorsHeader> parsed =
      ParseSafetensorsHeader(header, file_bytes - data_begin);
  if (!parsed.ok()) return About(path, parsed.status());
  std::unique_ptr<SafetensorsReader> reader(new SafetensorsReader(path, std::move(file)));
  reader->tensors_ = std::move(parsed->tensors);
  reader->metadata_ = std::move(parsed->metadata);
  for (SafetensorsEntry& tensor : reader->tensors_) tensor.offset += data_begin;
  return reader;
}

const SafetensorsEntry* SafetensorsReader::Find(absl::string_view name) const {
  for (const SafetensorsEntry& tensor : tensors_) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

absl::Status SafetensorsReader::Read(const TensorPiece& piece, void* out) {
  RETURN_IF_ERROR(CheckPiece(piece));
  const SafetensorsEntry* tensor = Find(piece.tensor);
  if (tensor == nullptr)
    return absl::NotFoundError(
        absl::StrCat("safetensors file ", path_, " has no tensor ", piece.tensor));
  if (tensor->dtype != piece.dtype || tensor->shape != piece.global_shape)
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors file ", path_, ": tensor ", piece.tensor, " is ",
                     SafetensorsNameOf(tensor->dtype), " ", ShapeText(tensor->shape), ", wanted ",
                     SafetensorsNameOf(piece.dtype), " ", ShapeText(piece.global_shape)));
  const int64_t offset =
      tensor->offset + piece.begin * static_cast<int64_t>(kernels::SizeOf(piece.dtype));
  return ReadExactly(*file_, path_, offset,
                     {static_cast<char*>(out), static_cast<size_t>(piece.bytes())});
}

absl::Status WriteSafetensors(FileSystem& files, const std::string& path,
                              const std::vector<SafetensorsEntry>& tensors,
                              const std::vector<const void*>& data) {
  CHECK_EQ(tensors.size(), data.size());
  ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsWriter> writer,
                   SafetensorsWriter::Create(files, path, tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    ASSIGN_OR_RETURN(const int64_t elements, NumElements(tensors[i].shape));
    RETURN_IF_ERROR(writer->Append(
        data[i], elements * static_cast<int64_t>(kernels::SizeOf(tensors[i].dtype))));
  }
  return writer->Finish();
}

}  // namespace sluice::checkpoints
