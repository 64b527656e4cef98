#include "checkpoints/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/manifest.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using kernels::BFloat16;
using kernels::DType;
using kernels::E4M3;

std::string TimeText(int64_t unix_ms) {
  const std::time_t seconds = unix_ms / 1000;
  std::tm utc{};
  if (gmtime_r(&seconds, &utc) == nullptr) return "?";
  return absl::StrFormat("%04d-%02d-%02d %02d:%02d:%02d UTC", utc.tm_year + 1900, utc.tm_mon + 1,
                         utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

double Value(BFloat16 x) { return kernels::ToFloat(x); }
double Value(E4M3 x) { return kernels::ToFloat(x); }
template <typename T>
double Value(T x) {
  return static_cast<double>(x);
}
std::string ValueText(BFloat16 x) { return absl::StrFormat("%.9g", kernels::ToFloat(x)); }
std::string ValueText(E4M3 x) { return absl::StrFormat("%.9g", kernels::ToFloat(x)); }
std::string ValueText(float x) { return absl::StrFormat("%.9g", x); }
std::string ValueText(double x) { return absl::StrFormat("%.17g", x); }
template <typename T>
std::string ValueText(T x) {
  return absl::StrCat(x);
}

// Counts in the differences between two equally long stretches that start at `first_element`.
template <typename T>
void CompareElements(const std::vector<char>& a, const std::vector<char>& b, int64_t first_element,
                     TensorDifference& difference) {
  if (a == b) return;
  for (size_t offset = 0; offset < a.size(); offset += sizeof(T)) {
    if (std::memcmp(a.data() + offset, b.data() + offset, sizeof(T)) == 0) continue;
    T x, y;
    std::memcpy(&x, a.data() + offset, sizeof(T));
    std::memcpy(&y, b.data() + offset, sizeof(T));
    if (difference.num_different++ == 0) {
      difference.first_element = first_element + static_cast<int64_t>(offset / sizeof(T));
      difference.a = ValueText(x);
      difference.b = ValueText(y);
    }
    const double distance = std::abs(Value(x) - Value(y));
    if (!(distance <= difference.max_difference) && !std::isnan(difference.max_difference))
      difference.max_difference = distance;
  }
}

void CompareStretch(DType dtype, const std::vector<char>& a, const std::vector<char>& b,
                    int64_t first_element, TensorDifference& difference) {
  switch (dtype) {
    case DType::kF32:
      return CompareElements<float>(a, b, first_element, difference);
    case DType::kBF16:
      return CompareElements<BFloat16>(a, b, first_element, difference);
    case DType::kI32:
      return CompareElements<int32_t>(a, b, first_element, difference);
    case DType::kI64:
      return CompareElements<int64_t>(a, b, first_element, difference);
    case DType::kU8:
      return CompareElements<uint8_t>(a, b, first_element, difference);
    case DType::kF64:
      return CompareElements<double>(a, b, first_element, difference);
    case DType::kE4M3:
      return CompareElements<E4M3>(a, b, first_element, difference);
  }
  CHECK(false) << static_cast<int>(dtype);
}

std::string TypeText(const TensorRecord& record) {
  return absl::StrCat(record.dtype(), " ", ShapeText(ShapeOf(record)));
}

absl::Status CompareValues(CheckpointReader& a, CheckpointReader& b, const TensorPiece& whole,
                           TensorDifference& difference) {
  constexpr int64_t kStepBytes = 1 << 20;
  const int64_t step = kStepBytes / static_cast<int64_t>(kernels::SizeOf(whole.dtype));
  std::vector<char> from_a, from_b;
  TensorPiece part = whole;
  for (part.begin = 0; part.begin < whole.end; part.begin = part.end) {
    part.end = std::min(whole.end, part.begin + step);
    from_a.resize(static_cast<size_t>(part.bytes()));
    from_b.resize(static_cast<size_t>(part.bytes()));
    RETURN_IF_ERROR(a.Read(part, from_a.data()));
    RETURN_IF_ERROR(b.Read(part, from_b.data()));
    CompareStretch(whole.dtype, from_a, from_b, part.begin, difference);
  }
  return absl::OkStatus();
}

std::vector<std::string> CompareState(const RunMetadata& a, const RunMetadata& b) {
  std::map<std::string, std::pair<const std::string*, const std::string*>> entries;
  for (const auto& [name, value] : a.state()) entries[name].first = &value;
  for (const auto& [name, value] : b.state()) entries[name].second = &value;
  std::vector<std::string> differences;
  for (const auto& [name, values] : entries) {
    const auto& [x, y] = values;
    if (x == nullptr || y == nullptr) {
      differences.push_back(absl::StrCat("state ", name, " is only in ", x ? "A" : "B"));
    } else if (*x != *y) {
      differences.push_back(absl::StrCat("state ", name, " differs"));
    }
  }
  return differences;
}

}  // namespace

absl::StatusOr<std::string> ResolveCheckpoint(FileSystem& files, const std::string& path,
                                              const LogFunction& log) {
  absl::StatusOr<std::unique_ptr<ReadableFile>> manifest =
      files.OpenFile(JoinPath(path, kManifestName));
  if (manifest.ok()) return path;
  if (!absl::IsNotFound(manifest.status())) return manifest.status();
  const std::string below = JoinPath(path, "checkpoints");
  const bool is_run = files.ListDirectory(below).ok();
  absl::StatusOr<Generation> newest = FindNewestGood(files, is_run ? below : path, log);
  if (absl::IsNotFound(newest.status()))
    return absl::NotFoundError(absl::StrCat(
        path, " is neither a checkpoint (it has no ", kManifestName,
        ") nor a folder of checkpoints or a run's folder: ", newest.status().message()));
  RETURN_IF_ERROR(newest.status());
  return newest->path;
}

std::string GenerationsText(std::span<const Generation> generations) {
  std::string text = absl::StrFormat("%10s  %-23s  %s\n", "step", "created", "checkpoint");
  for (const Generation& generation : generations) {
    const bool is_good = generation.is_committed && generation.status.ok();
    absl::StrAppendFormat(
        &text, "%10d  %-23s  %s%s\n", generation.step,
        generation.created_unix_ms > 0 ? TimeText(generation.created_unix_ms) : "-",
        generation.path,
        is_good ? ""
                : absl::StrCat("  ", generation.is_committed
                                         ? generation.status.message()
                                         : absl::string_view("its save was never finished")));
  }
  return text;
}

std::string ContentsText(const CheckpointReader& reader) {
  const Manifest& manifest = reader.manifest();
  int64_t bytes = 0;
  for (const FileRecord& file : manifest.files()) bytes += file.bytes();
  std::string text = absl::StrFormat(
      "checkpoint %s\nstep %d, created %s, format version %d, attempt %s\n"
      "%d tensors, %d bytes in %d files\n",
      reader.generation_dir(), manifest.step(), TimeText(manifest.metadata().created_unix_ms()),
      manifest.format_version(), manifest.attempt(), manifest.tensors_size(), bytes,
      manifest.files_size());
  if (!manifest.metadata().mesh().empty())
    absl::StrAppend(&text, "mesh ", manifest.metadata().mesh(), "\n");
  if (!manifest.metadata().tokenizer_hash().empty())
    absl::StrAppend(&text, "tokenizer ", manifest.metadata().tokenizer_hash(), "\n");
  for (const TensorRecord& record : manifest.tensors()) {
    absl::StrAppendFormat(&text, "%-5s %-20s %14d bytes %5d pieces  %s\n", record.dtype(),
                          ShapeText(ShapeOf(record)), PieceOf(record).bytes(), record.pieces_size(),
                          record.name());
  }
  return text;
}

absl::StatusOr<CheckpointDifference> Diff(CheckpointReader& a, CheckpointReader& b) {
  CheckpointDifference result{.step_a = a.step(), .step_b = b.step()};
  using Kind = TensorDifference::Kind;
  std::map<std::string, std::pair<const TensorRecord*, const TensorRecord*>> tensors;
  for (const TensorRecord& record : a.tensors()) tensors[record.name()].first = &record;
  for (const TensorRecord& record : b.tensors()) tensors[record.name()].second = &record;
  for (const auto& [name, records] : tensors) {
    const auto& [in_a, in_b] = records;
    TensorDifference difference{.tensor = name};
    if (in_a == nullptr || in_b == nullptr) {
      difference.kind = in_a != nullptr ? Kind::kOnlyInA : Kind::kOnlyInB;
    } else if (TypeText(*in_a) != TypeText(*in_b)) {
      difference.kind = Kind::kShapeOrType;
      difference.a = TypeText(*in_a);
      difference.b = TypeText(*in_b);
    } else {
      RETURN_IF_ERROR(CompareValues(a, b, PieceOf(*in_a), difference));
      if (difference.num_different == 0) {
        ++result.num_equal_tensors;
        continue;
      }
    }
    result.tensors.push_back(std::move(difference));
  }
  result.metadata = CompareState(a.metadata(), b.metadata());
  return result;
}

std::string CheckpointDifference::ToString() const {
  std::string text;
  if (step_a != step_b) absl::StrAppend(&text, "step: ", step_a, " against ", step_b, "\n");
  for (const std::string& line : metadata) absl::StrAppend(&text, line, "\n");
  for (const TensorDifference& d : tensors) {
    switch (d.kind) {
      case TensorDifference::Kind::kOnlyInA:
        absl::StrAppend(&text, d.tensor, ": only in A\n");
        break;
      case TensorDifference::Kind::kOnlyInB:
        absl::StrAppend(&text, d.tensor, ": only in B\n");
        break;
      case TensorDifference::Kind::kShapeOrType:
        absl::StrAppend(&text, d.tensor, ": ", d.a, " against ", d.b, "\n");
        break;
      case TensorDifference::Kind::kValues:
        absl::StrAppendFormat(
            &text,
            "%s: %d elements differ, the first is element %d (%s against %s), largest "
            "difference %.6g\n",
            d.tensor, d.num_different, d.first_element, d.a, d.b, d.max_difference);
        break;
    }
  }
  if (is_equal()) return absl::StrCat("equal: ", num_equal_tensors, " tensors\n");
  return absl::StrCat(text, num_equal_tensors, " tensors are equal, ", tensors.size(), " differ\n");
}

}  // namespace sluice::checkpoints
