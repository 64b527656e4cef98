#include "checkpoints/huggingface/export.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/huggingface/adapted_weights.h"
#include "checkpoints/huggingface/export_plan.h"
#include "checkpoints/huggingface/fp8_blocks.h"
#include "checkpoints/safetensors.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/dtype.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;

constexpr int64_t kChunkElements = 1 << 20;

class Exporter {
 public:
  Exporter(FileSystem& files, const ExportOptions& options)
      : files_(files),
        options_(options),
        weights_(*options.from, AdaptedWeightReader::Adapters::kMerge) {}

  absl::StatusOr<Exported> Run() {
    ASSIGN_OR_RETURN(plan_, PlanExport(options_));
    for (const FileLayout& file : plan_.files) {
      for (const SafetensorsEntry& entry : file.tensors) {
        total_ += *NumElements(entry.shape) * static_cast<int64_t>(kernels::SizeOf(entry.dtype));
      }
    }
    Exported exported;
    for (const FileLayout& file : plan_.files) {
      ASSIGN_OR_RETURN(writer_, SafetensorsWriter::Create(files_, JoinPath(options_.to, file.name),
                                                          file.tensors, file.metadata));
      for (const SafetensorsEntry& entry : file.tensors) {
        RETURN_IF_ERROR(WriteTensor(entry, exported.certificate));
        exported.is_fp8 = exported.is_fp8 || entry.dtype == DType::kE4M3;
      }
      RETURN_IF_ERROR(writer_->Finish());
    }
    exported.files = std::move(plan_.files);
    exported.is_source_layout = plan_.is_source_layout;
    return exported;
  }

 private:
  absl::Status Append(const void* data, int64_t bytes) {
    crc32c_ = ExtendCrc32c(crc32c_, data, static_cast<size_t>(bytes));
    done_ += bytes;
    if (options_.progress) options_.progress(done_, total_);
    return writer_->Append(data, bytes);
  }

  absl::Status WriteTensor(const SafetensorsEntry& entry, Certificate& certificate) {
    const ExportedTensor& target = plan_.targets.at(entry.name);
    CertifiedTensor certified{.disk = entry.name,
                              .checkpoint = target.stored,
                              .dtype = std::string(SafetensorsNameOf(entry.dtype)),
                              .shape = entry.shape};
    crc32c_ = 0;
    max_error_ = 0;
    if (target.bytes_of != nullptr) {
      certified.fate = target.bytes_of == options_.from ? "stored bytes" : "source bytes";
      RETURN_IF_ERROR(CopyBytes(*target.bytes_of, target.stored, entry));
    } else if (target.is_scale) {
      certified.fate = "scales";
      RETURN_IF_ERROR(WriteScales(target));
    } else if (entry.dtype == DType::kE4M3) {
      certified.fate = "quantised";
      RETURN_IF_ERROR(WriteCodes(target));
    } else {
      certified.fate = entry.dtype == DType::kF32 ? "exact" : "rounded";
      RETURN_IF_ERROR(WriteFloats(target, entry));
    }
    if (target.is_merged) certified.fate += ", adapter merged";
    if (target.mapped->role == MappedTensor::Role::kCopy) {
      certified.fate = absl::StrCat("copy of ", target.original, ", ", certified.fate);
    }
    certified.max_error = max_error_;
    certified.crc32c = crc32c_;
    const int64_t elements = *NumElements(entry.shape);
    if (target.mapped->role != MappedTensor::Role::kCopy && !target.is_scale) {
      certificate.parameters += elements;
    }
    certificate.bytes += elements * static_cast<int64_t>(kernels::SizeOf(entry.dtype));
    certificate.tensors.push_back(std::move(certified));
    return absl::OkStatus();
  }

  absl::Status CopyBytes(CheckpointReader& reader, const std::string& stored,
                         const SafetensorsEntry& entry) {
    const int64_t size = static_cast<int64_t>(kernels::SizeOf(entry.dtype));
    std::vector<char> bytes;
    const int64_t elements = *NumElements(entry.shape);
    for (int64_t begin = 0; begin < elements; begin += kChunkElements) {
      const int64_t end = std::min(elements, begin + kChunkElements);
      bytes.resize((end - begin) * size);
      RETURN_IF_ERROR(reader.Read({stored, entry.dtype, entry.shape, begin, end}, bytes.data()));
      RETURN_IF_ERROR(Append(bytes.data(), std::ssize(bytes)));
    }
    return absl::OkStatus();
  }

  // Elements [begin, end) as FP32, all finite.
  absl::StatusOr<std::span<const float>> Values(const ExportedTensor& target, int64_t begin,
                                                int64_t end) {
    values_.resize(end - begin);
    if (target.mapped->role == MappedTensor::Role::kGateBias) {
      RETURN_IF_ERROR(options_.from->Read(
          {target.stored, DType::kF32, target.mapped->shape, begin, end}, values_.data()));
    } else {
      RETURN_IF_ERROR(weights_.Read(target.mapped->name, target.mapped->shape, begin, end,
                                    DType::kF32, values_.data()));
    }
    const auto bad = std::find_if_not(values_.begin(), values_.end(),
                                      [](float value) { return std::isfinite(value); });
    if (bad == values_.end()) return std::span<const float>(values_);
    return absl::InvalidArgumentError(absl::StrCat("tensor ", target.stored, ": found ", *bad,
                                                   " at element ", begin + (bad - values_.begin()),
                                                   ", wanted finite values"));
  }

  absl::Status WriteFloats(const ExportedTensor& target, const SafetensorsEntry& entry) {
    const int64_t elements = *NumElements(entry.shape);
    std::vector<kernels::BFloat16> rounded;
    for (int64_t begin = 0; begin < elements; begin += kChunkElements) {
      ASSIGN_OR_RETURN(const auto values,
                       Values(target, begin, std::min(elements, begin + kChunkElements)));
      if (entry.dtype == DType::kF32) {
        RETURN_IF_ERROR(Append(values.data(), std::ssize(values) * 4));
        continue;
      }
      rounded.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        rounded[i] = kernels::ToBFloat16(values[i]);
        AddError(values[i], kernels::ToFloat(rounded[i]));
      }
      RETURN_IF_ERROR(Append(rounded.data(), std::ssize(rounded) * 2));
    }
    return absl::OkStatus();
  }

  // Calls visit(values of a band of 128 rows, its first row, its scales).
  template <typename Visitor>
  absl::Status ForEachBand(const ExportedTensor& target, const Visitor& visit) {
    const int64_t rows = target.mapped->shape[0], columns = target.mapped->shape[1];
    std::vector<float> scales(NumBlocks(columns));
    for (int64_t row = 0; row < rows; row += kFp8Block) {
      ASSIGN_OR_RETURN(const auto values,
                       Values(target, row * columns, std::min(rows, row + kFp8Block) * columns));
      ScalesOfBand(values, columns, scales.data());
      RETURN_IF_ERROR(visit(values, row, scales));
    }
    return absl::OkStatus();
  }

  absl::Status WriteScales(const ExportedTensor& target) {
    return ForEachBand(target, [&](std::span<const float>, int64_t, const std::vector<float>& s) {
      return Append(s.data(), std::ssize(s) * 4);
    });
  }

  absl::Status WriteCodes(const ExportedTensor& target) {
    const int64_t columns = target.mapped->shape[1];
    std::vector<uint8_t> codes;
    std::vector<float> back;
    return ForEachBand(
        target, [&](std::span<const float> values, int64_t, const std::vector<float>& scales) {
          codes.resize(values.size());
          back.resize(values.size());
          EncodeBand(values, columns, scales.data(), codes.data());
          DecodeFp8(codes, 0, columns, scales, back.data());
          for (size_t i = 0; i < values.size(); ++i) AddError(values[i], back[i]);
          return Append(codes.data(), std::ssize(codes));
        });
  }

  void AddError(float exact, float written) {
    max_error_ = std::max(max_error_, std::fabs(static_cast<double>(exact) - written));
  }

  FileSystem& files_;
  const ExportOptions& options_;
  AdaptedWeightReader weights_;
  ExportPlan plan_;
  std::unique_ptr<SafetensorsWriter> writer_;
  std::vector<float> values_;
  uint32_t crc32c_ = 0;
  double max_error_ = 0;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

absl::StatusOr<Exported> Export(FileSystem& files, const ExportOptions& options) {
  return Exporter(files, options).Run();
}

}  // namespace sluice::checkpoints
