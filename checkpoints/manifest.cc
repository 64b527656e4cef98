#include "checkpoints/manifest.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little endian");

constexpr absl::string_view kMagic = "SLUICECK";
constexpr size_t kFrameBytes = 8 + 4 + 8 + 4;             // magic, version, length; CRC32C
constexpr int64_t kMostManifestBytes = int64_t{1} << 31;  // protobuf's own limit
constexpr int64_t kMostChunkBytes = int64_t{1} << 30;
constexpr absl::string_view kPrefix = "step-";

template <typename T>
void AppendNumber(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T NumberAt(absl::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

// A stretch of a tensor (elements) or a file (bytes).
struct Stretch {
  int64_t begin, end;
};

// Empty if the stretches, in ascending order, cover [0, total) exactly once; else what is wrong.
std::string Untiled(std::vector<Stretch> stretches, int64_t total, absl::string_view unit) {
  std::sort(stretches.begin(), stretches.end(), [](const Stretch& a, const Stretch& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  int64_t covered = 0;
  for (const Stretch& s : stretches) {
    if (s.begin > covered) break;
    if (s.begin < covered) {
      return absl::StrCat(unit, " [", s.begin, ", ", std::min(covered, s.end),
                          ") are there more than once");
    }
    covered = s.end;
  }
  if (covered == total) return "";
  int64_t next = total;
  for (const Stretch& s : stretches) {
    if (s.begin > covered) next = std::min(next, s.begin);
  }
  return absl::StrCat(unit, " [", covered, ", ", next, ") of ", total, " are missing");
}

bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name != "." && name != ".." && name != kManifestName &&
         name != kManifestTemporaryName && name.find('/') == absl::string_view::npos &&
         name.find('\0') == absl::string_view::npos;
}

class Checker {
 public:
  Checker(const Manifest& manifest, absl::StatusCode code) : manifest_(manifest), code_(code) {}

  absl::Status Check() {
    if (absl::Status id = CheckGenerationId(manifest_.step(), manifest_.attempt()); !id.ok())
      return Error(id.message());
    std::set<absl::string_view> names;
    for (const FileRecord& file : manifest_.files()) {
      if (!IsPlainFileName(file.name()))
        return Error(absl::StrCat("file name \"", file.name(), "\" is not a plain name"));
      if (!names.insert(file.name()).second)
        return Error(absl::StrCat("file ", file.name(), " is listed twice"));
      if (file.bytes() < 0 || file.chunk_bytes() <= 0 || file.chunk_bytes() > kMostChunkBytes ||
          file.chunk_bytes() % 8 != 0)
        return Error(absl::StrCat("file ", file.name(), " has ", file.bytes(),
                                  " bytes in chunks of ", file.chunk_bytes()));
    }
    stretches_of_file_.resize(static_cast<size_t>(manifest_.files_size()));
    const TensorRecord* before = nullptr;
    for (const TensorRecord& tensor : manifest_.tensors()) {
      if (before != nullptr && before->name() >= tensor.name())
        return Error(absl::StrCat("tensor ", tensor.name(), " is listed after ", before->name()));
      before = &tensor;
      RETURN_IF_ERROR(CheckTensor(tensor));
    }
    for (int i = 0; i < manifest_.files_size(); ++i) {
      const std::string wrong = Untiled(std::move(stretches_of_file_[static_cast<size_t>(i)]),
                                        manifest_.files(i).bytes(), "bytes");
      if (!wrong.empty())
        return Error(absl::StrCat("file ", manifest_.files(i).name(), ": ", wrong));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Error(absl::string_view message) const { return absl::Status(code_, message); }

  absl::Status CheckTensor(const TensorRecord& tensor) {
    const auto error = [&](absl::string_view what) {
      return Error(absl::StrCat("tensor ", tensor.name(), ": ", what));
    };
    if (tensor.name().empty()) return Error("a tensor has no name");
    const std::optional<kernels::DType> dtype = DTypeNamed(tensor.dtype());
    if (!dtype) return error(absl::StrCat("unknown element type \"", tensor.dtype(), "\""));
    absl::StatusOr<int64_t> elements = NumElements(ShapeOf(tensor));
    if (!elements.ok()) return error(elements.status().message());
    std::vector<Stretch> stretches;
    for (const PieceRecord& piece : tensor.pieces()) {
      const std::string wrong = WrongPiece(piece, *elements, kernels::SizeOf(*dtype));
      if (!wrong.empty()) return error(wrong);
      if (!stretches.empty() && stretches.back().begin >= piece.begin())
        return error(absl::StrCat("elements [", piece.begin(), ", ", piece.end(),
                                  ") are listed after [", stretches.back().begin, ", ",
                                  stretches.back().end, ")"));
      stretches.push_back({piece.begin(), piece.end()});
    }
    const std::string wrong = Untiled(std::move(stretches), *elements, "elements");
    return wrong.empty() ? absl::OkStatus() : error(wrong);
  }

  // Empty, or what is wrong with the piece; notes which bytes of its file it takes.
  std::string WrongPiece(const PieceRecord& piece, int64_t elements, size_t element_bytes) {
    const std::string where = absl::StrCat("elements [", piece.begin(), ", ", piece.end(), ") ");
    if (piece.begin() < 0 || piece.begin() >= piece.end() || piece.end() > elements)
      return absl::StrCat(where, "do not lie in [0, ", elements, ")");
    if (piece.file() < 0 || piece.file() >= manifest_.files_size())
      return absl::StrCat(where, "are in file number ", piece.file(), " of ",
                          manifest_.files_size());
    const FileRecord& file = manifest_.files(piece.file());
    const int64_t bytes = (piece.end() - piece.begin()) * static_cast<int64_t>(element_bytes);
    if (piece.offset() < 0 || bytes > file.bytes() || piece.offset() > file.bytes() - bytes)
      return absl::StrCat(where, "are at byte ", piece.offset(), " of ", file.name(),
                          ", which has only ", file.bytes());
    const int64_t chunks = (bytes - 1) / file.chunk_bytes() + 1;
    if (piece.chunk_crc32c_size() != chunks)
      return absl::StrCat(where, "have ", piece.chunk_crc32c_size(), " checksums, not ", chunks);
    stretches_of_file_[static_cast<size_t>(piece.file())].push_back(
        {piece.offset(), piece.offset() + bytes});
    return "";
  }

  const Manifest& manifest_;
  const absl::StatusCode code_;
  std::vector<std::vector<Stretch>> stretches_of_file_;
};

}  // namespace

std::string GenerationName(int64_t step, absl::string_view attempt) {
  return absl::StrCat(kPrefix, absl::StrFormat("%010d", step), "-", attempt);
}

std::optional<GenerationId> ParseGenerationName(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, kPrefix)) return std::nullopt;
  const size_t dash = name.find('-');
  if (dash == absl::string_view::npos) return std::nullopt;
  GenerationId id;
  if (!absl::SimpleAtoi(name.substr(0, dash), &id.step)) return std::nullopt;
  id.attempt = std::string(name.substr(dash + 1));
  if (!CheckGenerationId(id.step, id.attempt).ok()) return std::nullopt;
  return id;
}

absl::Status CheckGenerationId(int64_t step, absl::string_view attempt) {
  if (step < 0) return absl::InvalidArgumentError(absl::StrCat("step ", step, " is negative"));
  if (attempt.empty() || attempt.size() > 64 ||
      !std::all_of(attempt.begin(), attempt.end(),
                   [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)); })) {
    return absl::InvalidArgumentError(
        absl::StrCat("attempt \"", attempt, "\" is not 1 to 64 letters and digits"));
  }
  return absl::OkStatus();
}

std::string EncodeManifest(const Manifest& manifest) {
  std::string message;
  {
    google::protobuf::io::StringOutputStream stream(&message);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);  // maps in the order of their keys
    CHECK(manifest.SerializeToCodedStream(&out)) << "manifest of step " << manifest.step();
  }
  std::string bytes(kMagic);
  AppendNumber(bytes, static_cast<uint32_t>(manifest.format_version()));
  AppendNumber(bytes, static_cast<uint64_t>(message.size()));
  bytes += message;
  AppendNumber(bytes, Crc32c(bytes.data(), bytes.size()));
  return bytes;
}

absl::StatusOr<Manifest> DecodeManifest(absl::string_view bytes) {
  if (bytes.size() < kFrameBytes || bytes.substr(0, kMagic.size()) != kMagic)
    return absl::DataLossError(
        absl::StrCat(bytes.size(), " bytes that do not start as a manifest does"));
  const uint64_t length = NumberAt<uint64_t>(bytes, 12);
  if (length != bytes.size() - kFrameBytes)
    return absl::DataLossError(absl::StrCat("it should hold a message of ", length, " bytes, not ",
                                            bytes.size() - kFrameBytes));
  const uint32_t found = Crc32c(bytes.data(), bytes.size() - 4);
  const uint32_t wanted = NumberAt<uint32_t>(bytes, bytes.size() - 4);
  if (found != wanted)
    return absl::DataLossError(
        absl::StrFormat("its CRC32C is 0x%08x, it should be 0x%08x", found, wanted));
  const uint32_t version = NumberAt<uint32_t>(bytes, 8);
  if (version != kFormatVersion)
    return absl::FailedPreconditionError(absl::StrCat(
        "it has format version ", version, ", this program reads version ", kFormatVersion));
  Manifest manifest;
  if (!manifest.ParseFromArray(bytes.data() + 20, static_cast<int>(length)))
    return absl::DataLossError("its message cannot be parsed");
  for (const std::string& feature : manifest.required_features())
    return absl::FailedPreconditionError(
        absl::StrCat("it needs the feature \"", feature, "\", which this program lacks"));
  return manifest;
}

absl::StatusOr<Manifest> ReadManifest(FileSystem& files, const std::string& generation_dir) {
  const std::string path = JoinPath(generation_dir, kManifestName);
  const auto annotated = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("manifest ", path, ": ", status.message()));
  };
  ASSIGN_OR_RETURN(const std::string bytes, ReadWholeFile(files, path, kMostManifestBytes));
  absl::StatusOr<Manifest> manifest = DecodeManifest(bytes);
  if (!manifest.ok()) return annotated(manifest.status());
  if (absl::Status s = CheckManifest(*manifest, absl::StatusCode::kDataLoss); !s.ok())
    return annotated(s);
  // A directory of another form was renamed by its owner, who may.
  absl::string_view directory = generation_dir;
  while (absl::ConsumeSuffix(&directory, "/")) {
  }
  const std::optional<GenerationId> id =
      ParseGenerationName(directory.substr(directory.rfind('/') + 1));
  if (id && (id->step != manifest->step() || id->attempt != manifest->attempt()))
    return annotated(absl::DataLossError(
        absl::StrCat("it belongs to ", GenerationName(manifest->step(), manifest->attempt()))));
  return manifest;
}

absl::Status CheckManifest(const Manifest& manifest, absl::StatusCode code) {
  return Checker(manifest, code).Check();
}

TensorPiece PieceOf(const TensorRecord& record) {
  const std::optional<kernels::DType> dtype = DTypeNamed(record.dtype());
  CHECK(dtype) << record.dtype();
  return WholeTensor(record.name(), *dtype, {record.shape().begin(), record.shape().end()});
}

}  // namespace sluice::checkpoints
