#include "checkpoints/huggingface/import.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoints/commit.h"
#include "checkpoints/huggingface/fp8_blocks.h"
#include "checkpoints/huggingface/layout.h"
#include "checkpoints/huggingface/source_model.h"
#include "checkpoints/huggingface/tensor_scan.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "checkpoints/retention.h"
#include "checkpoints/writer.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/dtype.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;

absl::Status Refuse(const std::string& tensor, absl::string_view found, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", tensor, ": found ", found, ", wanted ", wanted));
}

// Tensors that old files carry and nobody reads.
bool IsIgnored(const std::string& name) {
  return absl::EndsWith(name, ".self_attn.rotary_emb.inv_freq");
}

class Importer {
 public:
  Importer(FileSystem& files, const ImportOptions& options) : files_(files), options_(options) {}

  absl::StatusOr<Imported> Run() {
    ASSIGN_OR_RETURN(source_, SourceModel::Open(files_, options_.from));
    buffer_.resize(options_.buffer_bytes / 8 * 8);
    RETURN_IF_ERROR(Match());
    total_ = 2 * source_->total_bytes();
    RETURN_IF_ERROR(CheckValues());
    RETURN_IF_ERROR(CheckFreeSpace(files_, options_.to, source_->total_bytes()));
    if (options_.before_writing) RETURN_IF_ERROR(options_.before_writing());
    return Write();
  }

 private:
  // What becomes of a tensor on disk.
  struct Plan {
    const MappedTensor* mapped = nullptr;  // null: ignored
    bool is_scale = false;
    uint32_t crc32c = 0;
    double max_error = 0;
  };

  absl::Status Match() {
    std::set<std::string> missing;
    for (const MappedTensor& mapped : options_.tensors) {
      const SafetensorsEntry* entry = source_->Find(mapped.disk);
      if (entry == nullptr) {
        if (mapped.role == MappedTensor::Role::kCopy) continue;
        missing.insert(mapped.disk);
        continue;
      }
      RETURN_IF_ERROR(CheckShapeAndType(mapped, *entry));
      plans_[mapped.disk] = {.mapped = &mapped};
      if (entry->dtype != DType::kE4M3) continue;
      RETURN_IF_ERROR(CheckScales(mapped));
      plans_[ScaleName(mapped.disk)] = {.mapped = &mapped, .is_scale = true};
    }
    std::string unknown;
    int64_t num_unknown = 0;
    for (const SourceModel::File& file : source_->files()) {
      for (const SafetensorsEntry& entry : file.reader->tensors()) {
        if (plans_.contains(entry.name)) continue;
        if (IsIgnored(entry.name) || IsLeftOut(entry.name)) {
          plans_[entry.name] = {};
        } else if (num_unknown++ == 0) {
          unknown = absl::StrCat(entry.name, " in ", file.name);
        }
      }
    }
    if (missing.empty() && num_unknown == 0) return absl::OkStatus();
    std::string message = options_.from;
    if (!missing.empty()) {
      absl::StrAppend(
          &message, ": tensor ", *missing.begin(), " is missing",
          missing.size() > 1 ? absl::StrCat(" (and ", missing.size() - 1, " more)") : "");
    }
    if (num_unknown > 0) {
      absl::StrAppend(&message, missing.empty() ? ": " : "; ", "tensor ", unknown,
                      " is none of this model's",
                      num_unknown > 1 ? absl::StrCat(" (and ", num_unknown - 1, " more)") : "");
    }
    return absl::InvalidArgumentError(message);
  }

  bool IsLeftOut(const std::string& name) const {
    return std::any_of(options_.leave_out.begin(), options_.leave_out.end(),
                       [&](const std::string& prefix) { return absl::StartsWith(name, prefix); });
  }

  absl::Status CheckShapeAndType(const MappedTensor& mapped, const SafetensorsEntry& entry) {
    if (entry.shape != mapped.shape) {
      return Refuse(entry.name, absl::StrCat("shape ", ShapeText(entry.shape)),
                    ShapeText(mapped.shape));
    }
    const bool is_plain = entry.dtype == DType::kF32 || entry.dtype == DType::kBF16;
    const bool is_fp8 = entry.dtype == DType::kE4M3 && mapped.may_be_fp8;
    if (is_plain || is_fp8) return absl::OkStatus();
    return Refuse(entry.name, absl::StrCat("element type ", SafetensorsNameOf(entry.dtype)),
                  mapped.may_be_fp8 ? "F32, BF16 or F8_E4M3" : "F32 or BF16");
  }

  absl::Status CheckScales(const MappedTensor& mapped) {
    const std::string name = ScaleName(mapped.disk);
    const SafetensorsEntry* scales = source_->Find(name);
    const std::vector<int64_t> wanted = {NumBlocks(mapped.shape[0]), NumBlocks(mapped.shape[1])};
    if (scales == nullptr) return Refuse(mapped.disk, "FP8 without scales", name);
    if (scales->dtype == DType::kF32 && scales->shape == wanted) return absl::OkStatus();
    return Refuse(
        name,
        absl::StrCat(SafetensorsNameOf(scales->dtype), " of shape ", ShapeText(scales->shape)),
        absl::StrCat("F32 of shape ", ShapeText(wanted), ", a scale a block of 128 x 128"));
  }

  // Calls visit(bytes, offset in the tensor) for all of a tensor.
  template <typename Visitor>
  absl::Status ForEachChunk(const std::string& name, int64_t bytes, const Visitor& visit) {
    for (int64_t at = 0; at < bytes;) {
      const std::span<char> chunk(buffer_.data(),
                                  std::min<int64_t>(std::ssize(buffer_), bytes - at));
      RETURN_IF_ERROR(source_->Read(name, at, chunk));
      RETURN_IF_ERROR(visit(std::span<const char>(chunk), at));
      at += std::ssize(chunk);
      done_ += std::ssize(chunk);
      if (options_.progress) options_.progress(std::min(done_, total_), total_);
    }
    return absl::OkStatus();
  }

  absl::Status CheckValues() {
    for (const SourceModel::File& file : source_->files()) {
      for (const SafetensorsEntry& entry : file.reader->tensors()) {
        Plan& plan = plans_.at(entry.name);
        if (plan.mapped != nullptr && plan.mapped->role == MappedTensor::Role::kCopy) {
          RETURN_IF_ERROR(CompareWithOriginal(entry, *plan.mapped));
        }
        std::vector<float> scales;
        if (entry.dtype == DType::kE4M3 && plan.mapped != nullptr) {
          scales.resize(NumBlocks(entry.shape[0]) * NumBlocks(entry.shape[1]));
          RETURN_IF_ERROR(
              source_->Read(ScaleName(entry.name), 0,
                            {reinterpret_cast<char*>(scales.data()), scales.size() * 4}));
        }
        RETURN_IF_ERROR(
            ForEachChunk(entry.name, entry.bytes, [&](std::span<const char> chunk, int64_t at) {
              plan.crc32c = ExtendCrc32c(plan.crc32c, chunk.data(), chunk.size());
              const int64_t element = at / static_cast<int64_t>(kernels::SizeOf(entry.dtype));
              if (!scales.empty()) {
                plan.max_error =
                    std::max(plan.max_error, Fp8Error(chunk, element, entry.shape[1], scales));
              }
              if (plan.mapped == nullptr) return absl::OkStatus();
              const int64_t bad = FirstNotFinite(entry.dtype, chunk);
              if (bad < 0) return absl::OkStatus();
              return Refuse(entry.name,
                            absl::StrCat("a value that is not finite at element ", element + bad),
                            "finite values");
            }));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CompareWithOriginal(const SafetensorsEntry& copy, const MappedTensor& mapped) {
    const std::string original = DiskOf(mapped.name);
    const SafetensorsEntry* entry = source_->Find(original);
    CHECK(entry != nullptr) << original;
    if (entry->dtype != copy.dtype) {
      return Refuse(
          copy.name, absl::StrCat("element type ", SafetensorsNameOf(copy.dtype)),
          absl::StrCat(SafetensorsNameOf(entry->dtype), " as ", original, ", whose copy it is"));
    }
    std::vector<char> other(buffer_.size());
    const int64_t size = static_cast<int64_t>(kernels::SizeOf(copy.dtype));
    for (int64_t at = 0; at < copy.bytes; at += std::ssize(buffer_)) {
      const size_t count = std::min<int64_t>(std::ssize(buffer_), copy.bytes - at);
      RETURN_IF_ERROR(source_->Read(copy.name, at, {buffer_.data(), count}));
      RETURN_IF_ERROR(source_->Read(original, at, {other.data(), count}));
      const auto differs = std::mismatch(buffer_.begin(), buffer_.begin() + count, other.begin());
      if (differs.first == buffer_.begin() + count) continue;
      return Refuse(copy.name,
                    absl::StrCat("another value at element ",
                                 (at + (differs.first - buffer_.begin())) / size),
                    absl::StrCat("that of ", original, ", whose copy it is"));
    }
    return absl::OkStatus();
  }

  std::string DiskOf(const std::string& name) const {
    for (const MappedTensor& mapped : options_.tensors) {
      if (mapped.name == name && mapped.role != MappedTensor::Role::kCopy) return mapped.disk;
    }
    CHECK(false) << name;
    return "";
  }

  absl::StatusOr<Imported> Write() {
    const std::string attempt = MakeAttemptId();
    ASSIGN_OR_RETURN(auto writer, CheckpointWriter::Begin(files_, options_.to, 0, attempt, 0,
                                                          {.num_writers = 1}));
    Imported imported;
    imported.certificate.title = absl::StrCat("import of ", options_.from);
    std::vector<FileLayout> layout;
    for (const SourceModel::File& file : source_->files()) {
      layout.push_back({file.name, file.reader->metadata(), file.reader->tensors()});
      for (const SafetensorsEntry& entry : file.reader->tensors()) {
        RETURN_IF_ERROR(WriteTensor(entry, *writer, imported.certificate));
      }
    }
    ASSIGN_OR_RETURN(const ShardReceipt receipt, writer->Finish());
    RunMetadata metadata = options_.metadata;
    (*metadata.mutable_info())[kLayoutKey] = LayoutText(layout);
    ASSIGN_OR_RETURN(imported.generation,
                     Commit(files_, options_.to, 0, attempt,
                            std::span<const ShardReceipt>(&receipt, 1), metadata));
    return imported;
  }

  absl::Status WriteTensor(const SafetensorsEntry& entry, CheckpointWriter& writer,
                           Certificate& certificate) {
    const Plan& plan = plans_.at(entry.name);
    CertifiedTensor certified{.disk = entry.name,
                              .dtype = std::string(SafetensorsNameOf(entry.dtype)),
                              .shape = entry.shape,
                              .fate = "stored",
                              .max_error = plan.max_error,
                              .crc32c = plan.crc32c};
    const bool is_copy = plan.mapped != nullptr && plan.mapped->role == MappedTensor::Role::kCopy;
    const bool is_gate =
        plan.mapped != nullptr && plan.mapped->role == MappedTensor::Role::kGateBias;
    if (plan.mapped == nullptr) {
      certified.fate = IsLeftOut(entry.name) ? "left out" : "ignored, the configuration says it";
    } else if (is_copy) {
      certified.fate = absl::StrCat("copy of ", DiskOf(plan.mapped->name));
    } else {
      certified.checkpoint = absl::StrCat(is_gate ? kGatePrefix : kWeightPrefix, plan.mapped->name,
                                          plan.is_scale ? "_scale_inv" : "");
    }
    const int64_t elements = *NumElements(entry.shape);
    const int64_t size = static_cast<int64_t>(kernels::SizeOf(entry.dtype));
    uint32_t crc32c = 0;
    RETURN_IF_ERROR(
        ForEachChunk(entry.name, entry.bytes, [&](std::span<const char> chunk, int64_t at) {
          crc32c = ExtendCrc32c(crc32c, chunk.data(), chunk.size());
          if (certified.checkpoint.empty()) return absl::OkStatus();
          TensorPiece piece{certified.checkpoint, entry.dtype, entry.shape, at / size,
                            at / size + std::ssize(chunk) / size};
          if (!is_gate || entry.dtype == DType::kF32) return writer.Add(piece, chunk.data());
          piece.dtype = DType::kF32;  // the gate's state is FP32
          const std::vector<float> values = ToFloats(entry.dtype, chunk);
          return writer.Add(piece, values.data());
        }));
    if (crc32c != plan.crc32c) {
      return absl::DataLossError(
          absl::StrCat("tensor ", entry.name, " changed while it was imported"));
    }
    if (!certified.checkpoint.empty() && !plan.is_scale) certificate.parameters += elements;
    certificate.bytes += entry.bytes;
    certificate.tensors.push_back(std::move(certified));
    return absl::OkStatus();
  }

  FileSystem& files_;
  const ImportOptions& options_;
  std::unique_ptr<SourceModel> source_;
  std::map<std::string, Plan> plans_;
  std::vector<char> buffer_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

absl::StatusOr<Imported> Import(FileSystem& files, const ImportOptions& options) {
  return Importer(files, options).Run();
}

}  // namespace sluice::checkpoints
