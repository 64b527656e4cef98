#include "checkpoints/huggingface/export_plan.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/huggingface/adapted_weights.h"
#include "checkpoints/huggingface/fp8_blocks.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "kernels/core/check.h"
#include "kernels/core/dtype.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;
using Role = MappedTensor::Role;

class Planner {
 public:
  explicit Planner(const ExportOptions& options) : options_(options) {}

  absl::StatusOr<ExportPlan> Run() {
    RETURN_IF_ERROR(ReadRecord());
    for (const MappedTensor& mapped : options_.tensors) RETURN_IF_ERROR(Add(mapped));
    CutIntoFiles();
    return std::move(plan_);
  }

 private:
  // The layout that the import left, in this checkpoint or in the one it was trained from.
  absl::Status ReadRecord() {
    for (CheckpointReader* reader : {options_.from, options_.source}) {
      if (reader == nullptr) continue;
      const auto found = reader->metadata().info().find(kLayoutKey);
      if (found == reader->metadata().info().end()) continue;
      ASSIGN_OR_RETURN(record_, ParseLayout(found->second));
      for (const FileLayout& file : record_) {
        for (const SafetensorsEntry& entry : file.tensors) recorded_[entry.name] = entry.dtype;
      }
      return absl::OkStatus();
    }
    return absl::OkStatus();
  }

  DType TypeOf(const MappedTensor& mapped) const {
    const auto recorded = recorded_.find(mapped.disk);
    const bool is_bias = mapped.role == Role::kGateBias;
    switch (options_.type) {
      case ExportType::kSource:
        if (recorded != recorded_.end()) return recorded->second;
        return is_bias ? DType::kF32 : DType::kBF16;
      case ExportType::kF32:
        return DType::kF32;
      case ExportType::kFp8:
        if (mapped.may_be_fp8) return DType::kE4M3;
        [[fallthrough]];
      case ExportType::kBf16:
        return is_bias ? DType::kF32 : DType::kBF16;
    }
    return DType::kBF16;
  }

  // The mapped tensor that holds the values; of a copy its original.
  const MappedTensor& OriginalOf(const MappedTensor& mapped) const {
    if (mapped.role != Role::kCopy) return mapped;
    for (const MappedTensor& other : options_.tensors) {
      if (other.name == mapped.name && other.role != Role::kCopy) return other;
    }
    CHECK(false) << mapped.name;
    return mapped;
  }

  absl::Status Add(const MappedTensor& mapped) {
    // A source without its copies gives an export without them.
    const bool is_copy = mapped.role == Role::kCopy;
    if (is_copy && !recorded_.empty() && !recorded_.contains(mapped.disk)) return absl::OkStatus();
    const MappedTensor& original = OriginalOf(mapped);
    const DType dtype = TypeOf(is_copy ? original : mapped);
    ExportedTensor target{.mapped = &mapped, .original = original.disk};
    const bool is_bias = mapped.role == Role::kGateBias;
    const std::string master = kMasterPrefix + mapped.name, weight = kWeightPrefix + mapped.name;
    CheckpointReader& from = *options_.from;
    if (is_bias) {
      target.stored = kGatePrefix + mapped.name;
    } else {
      target.stored = from.Find(master) != nullptr ? master : weight;
    }
    const TensorRecord* stored = from.Find(target.stored);
    if (stored == nullptr) {
      return absl::NotFoundError(
          absl::StrCat(from.generation_dir(), ": tensor ", master, " is missing"));
    }
    target.is_merged =
        AdaptedWeightReader(from, AdaptedWeightReader::Adapters::kMerge).HasAdapter(mapped.name);
    if (!target.is_merged)
      RETURN_IF_ERROR(ChooseBytes(*DTypeNamed(stored->dtype()), dtype, target));
    entries_.push_back({.name = mapped.disk, .dtype = dtype, .shape = mapped.shape});
    plan_.targets[mapped.disk] = target;
    if (dtype != DType::kE4M3) return absl::OkStatus();
    target.is_scale = true;
    if (target.bytes_of != nullptr) target.stored = ScaleName(target.stored);
    entries_.push_back({.name = ScaleName(mapped.disk),
                        .dtype = DType::kF32,
                        .shape = {NumBlocks(mapped.shape[0]), NumBlocks(mapped.shape[1])}});
    plan_.targets[ScaleName(mapped.disk)] = target;
    return absl::OkStatus();
  }

  // Bytes to copy as they are: this checkpoint's where it has the type, or the source's where
  // nothing changed and this checkpoint holds the values in another type.
  absl::Status ChooseBytes(DType stored, DType wanted, ExportedTensor& target) {
    if (stored == wanted && wanted != DType::kF32) {
      target.bytes_of = options_.from;
      return absl::OkStatus();
    }
    if (options_.source == nullptr || target.mapped->role == Role::kGateBias) {
      return absl::OkStatus();
    }
    const std::string weight = kWeightPrefix + target.mapped->name;
    const TensorRecord* record = options_.source->Find(weight);
    if (record == nullptr || DTypeNamed(record->dtype()) != wanted) return absl::OkStatus();
    // FP32 masters give the source's FP32 and BF16 by themselves.
    if (stored == DType::kF32 && wanted != DType::kE4M3) return absl::OkStatus();
    ASSIGN_OR_RETURN(const bool is_untouched, IsUntouched(*target.mapped, stored));
    if (!is_untouched) return absl::OkStatus();
    target.bytes_of = options_.source;
    target.stored = weight;
    return absl::OkStatus();
  }

  // Whether the values are, bit for bit, what the source's tensor stands for, or in BF16 (a frozen
  // weight) its rounding.
  absl::StatusOr<bool> IsUntouched(const MappedTensor& mapped, DType stored) {
    WeightReader now(*options_.from), then(*options_.source);
    constexpr int64_t kChunk = 1 << 20;
    std::vector<float> a, b;
    const int64_t elements = *NumElements(mapped.shape);
    for (int64_t begin = 0; begin < elements; begin += kChunk) {
      const int64_t count = std::min(kChunk, elements - begin);
      a.resize(count);
      b.resize(count);
      RETURN_IF_ERROR(now.Read(mapped.name, mapped.shape, begin, a));
      RETURN_IF_ERROR(then.Read(mapped.name, mapped.shape, begin, b));
      if (stored == DType::kBF16) {
        for (float& value : b) value = kernels::ToFloat(kernels::ToBFloat16(value));
      }
      if (a != b) return false;
    }
    return true;
  }

  void CutIntoFiles() {
    std::map<std::string, const SafetensorsEntry*> by_name;
    for (const SafetensorsEntry& entry : entries_) by_name[entry.name] = &entry;
    const bool same_names =
        by_name.size() == recorded_.size() &&
        std::all_of(recorded_.begin(), recorded_.end(),
                    [&](const auto& recorded) { return by_name.contains(recorded.first); });
    if (same_names && !record_.empty()) {
      plan_.is_source_layout = true;
      for (FileLayout& file : record_) {
        for (SafetensorsEntry& entry : file.tensors) {
          plan_.is_source_layout =
              plan_.is_source_layout && entry.dtype == by_name[entry.name]->dtype;
          entry.dtype = by_name[entry.name]->dtype;
        }
      }
      plan_.files = std::move(record_);
      return;
    }
    int64_t bytes = 0;
    for (SafetensorsEntry& entry : entries_) {
      const int64_t size =
          *NumElements(entry.shape) * static_cast<int64_t>(kernels::SizeOf(entry.dtype));
      if (plan_.files.empty() || (bytes > 0 && bytes + size > options_.shard_bytes)) {
        plan_.files.push_back({"", {{"format", "pt"}}, {}});
        bytes = 0;
      }
      bytes += size;
      plan_.files.back().tensors.push_back(std::move(entry));
    }
    const size_t count = plan_.files.size();
    for (size_t i = 0; i < count; ++i) {
      plan_.files[i].name = count == 1
                                ? std::string(kSingleName)
                                : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, count);
    }
  }

  const ExportOptions& options_;
  std::vector<FileLayout> record_;
  std::map<std::string, DType> recorded_;
  std::vector<SafetensorsEntry> entries_;
  ExportPlan plan_;
};

}  // namespace

absl::StatusOr<ExportPlan> PlanExport(const ExportOptions& options) {
  return Planner(options).Run();
}

}  // namespace sluice::checkpoints
