// Verify, ListGenerations and FindNewestGood of reader.h.
#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/manifest.h"
#include "checkpoints/reader.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

// What damage looks like, as against a machine that cannot read just now.
bool IsDamage(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsNotFound(status);
}

absl::Status CheckSizes(FileSystem& files, const std::string& generation_dir,
                        const Manifest& manifest) {
  for (const FileRecord& record : manifest.files()) {
    const std::string path = JoinPath(generation_dir, record.name());
    absl::StatusOr<std::unique_ptr<ReadableFile>> file = files.OpenFile(path);
    if (absl::IsNotFound(file.status()))
      return absl::DataLossError(absl::StrCat(path, ": the manifest lists it but it is missing"));
    RETURN_IF_ERROR(file.status());
    ASSIGN_OR_RETURN(const int64_t bytes, (*file)->Size());
    if (bytes != record.bytes())
      return absl::DataLossError(
          absl::StrCat(path, ": the file has ", bytes, " bytes, written were ", record.bytes()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Verify(FileSystem& files, const std::string& generation_dir) {
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointReader> reader,
                   CheckpointReader::Open(files, generation_dir));
  const Manifest& manifest = reader->manifest();
  RETURN_IF_ERROR(CheckSizes(files, generation_dir, manifest));
  // In the order of the files, so that the whole-file checksum comes out of the same reads.
  struct Place {
    int file;
    int64_t offset;
    const TensorRecord* tensor;
    const PieceRecord* piece;
  };
  std::vector<Place> places;
  for (const TensorRecord& tensor : manifest.tensors()) {
    for (const PieceRecord& piece : tensor.pieces())
      places.push_back({piece.file(), piece.offset(), &tensor, &piece});
  }
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return std::tie(a.file, a.offset) < std::tie(b.file, b.offset);
  });
  std::vector<uint32_t> crc_of_file(static_cast<size_t>(manifest.files_size()), 0);
  std::vector<char> chunk;
  for (const Place& place : places) {
    TensorPiece part = PieceOf(*place.tensor);
    const int64_t element_bytes = static_cast<int64_t>(kernels::SizeOf(part.dtype));
    const int64_t step = manifest.files(place.file).chunk_bytes() / element_bytes;
    uint32_t& crc = crc_of_file[static_cast<size_t>(place.file)];
    for (int64_t begin = place.piece->begin(); begin < place.piece->end(); begin += step) {
      part.begin = begin;
      part.end = std::min(place.piece->end(), begin + step);
      chunk.resize(static_cast<size_t>(part.bytes()));
      RETURN_IF_ERROR(reader->Read(part, chunk.data()));
      crc = ExtendCrc32c(crc, chunk.data(), chunk.size());
    }
  }
  for (int i = 0; i < manifest.files_size(); ++i) {
    const FileRecord& file = manifest.files(i);
    if (crc_of_file[static_cast<size_t>(i)] == file.crc32c()) continue;
    return absl::DataLossError(absl::StrFormat("%s: the file has CRC32C 0x%08x, written was 0x%08x",
                                               JoinPath(generation_dir, file.name()),
                                               crc_of_file[static_cast<size_t>(i)], file.crc32c()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Generation>> ListGenerations(FileSystem& files, const std::string& dir) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files.ListDirectory(dir));
  std::vector<Generation> generations;
  for (const std::string& name : names) {
    const std::optional<GenerationId> id = ParseGenerationName(name);
    if (!id) continue;
    Generation generation{.path = JoinPath(dir, name), .step = id->step, .attempt = id->attempt};
    absl::StatusOr<Manifest> manifest = ReadManifest(files, generation.path);
    generation.is_committed = !absl::IsNotFound(manifest.status());
    generation.status = manifest.status();
    if (manifest.ok()) {
      generation.created_unix_ms = manifest->metadata().created_unix_ms();
      generation.status = CheckSizes(files, generation.path, *manifest);
    }
    generations.push_back(std::move(generation));
  }
  std::sort(generations.begin(), generations.end(), [](const Generation& a, const Generation& b) {
    return std::tie(a.step, a.created_unix_ms, a.attempt) >
           std::tie(b.step, b.created_unix_ms, b.attempt);
  });
  return generations;
}

absl::StatusOr<Generation> FindNewestGood(FileSystem& files, const std::string& dir,
                                          const LogFunction& log) {
  ASSIGN_OR_RETURN(std::vector<Generation> generations, ListGenerations(files, dir));
  int num_damaged = 0;
  std::string first_damage;
  for (Generation& generation : generations) {
    if (!generation.is_committed) {
      log(absl::StrCat("checkpoint ", generation.path,
                       " is passed over: its save was never finished"));
      continue;
    }
    if (generation.status.ok()) generation.status = Verify(files, generation.path);
    if (generation.status.ok()) return std::move(generation);
    if (!IsDamage(generation.status)) return generation.status;
    log(absl::StrCat("checkpoint ", generation.path,
                     " is passed over: ", generation.status.message()));
    if (num_damaged++ == 0) first_damage = std::string(generation.status.message());
  }
  if (num_damaged == 0) return absl::NotFoundError(absl::StrCat("no checkpoint in ", dir));
  return absl::DataLossError(absl::StrCat("none of the ", num_damaged, " checkpoints in ", dir,
                                          " is whole; the newest: ", first_damage));
}

}  // namespace sluice::checkpoints
