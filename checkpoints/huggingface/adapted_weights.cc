#include "checkpoints/huggingface/adapted_weights.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using kernels::BFloat16;
using kernels::DType;

constexpr int64_t kMergeElements = 1 << 16;

}  // namespace

std::string AdapterName(absl::string_view weight, absl::string_view part) {
  return absl::StrCat(absl::StripSuffix(weight, ".weight"), ".", part, ".weight");
}

void MergeLora(const MergeLoraArgs& args) {
  const int64_t first_row = args.begin / args.columns;
  for (int64_t i = args.begin; i < args.end;) {
    const int64_t row = i / args.columns, stop = std::min(args.end, (row + 1) * args.columns);
    const float* b = args.b + (row - first_row) * args.rank;
    for (; i < stop; ++i) {
      float sum = 0;
      for (int64_t r = 0; r < args.rank; ++r)
        sum += b[r] * args.a[r * args.columns + i % args.columns];
      args.w[i - args.begin] += args.scale * sum;
    }
  }
}

AdaptedWeightReader::AdaptedWeightReader(CheckpointReader& reader, Adapters adapters)
    : reader_(reader), weights_(reader), adapters_(adapters) {
  const auto found = reader.metadata().state().find(kLoraScale);
  if (found == reader.metadata().state().end() || !absl::SimpleAtof(found->second, &scale_)) {
    scale_ = 0;
  }
}

bool AdaptedWeightReader::Has(const std::string& name) const {
  return reader_.Find(kMasterPrefix + name) != nullptr ||
         reader_.Find(kWeightPrefix + name) != nullptr;
}

bool AdaptedWeightReader::HasAdapter(const std::string& name) const {
  return reader_.Find(kMasterPrefix + AdapterName(name, "lora_A")) != nullptr;
}

absl::Status AdaptedWeightReader::AddAdapter(const std::string& name,
                                             const std::vector<int64_t>& shape, int64_t begin,
                                             int64_t end, float* out) {
  const std::string a_name = AdapterName(name, "lora_A");
  if (scale_ == 0) {
    return absl::DataLossError(absl::StrCat(reader_.generation_dir(), ": found ", a_name,
                                            " but no lora_scale in the state"));
  }
  const TensorRecord* record = reader_.Find(kMasterPrefix + a_name);
  const int64_t rows = shape[0], columns = shape[1], rank = record->shape(0);
  if (cached_ != name) {
    cached_.clear();
    a_.resize(rank * columns);
    RETURN_IF_ERROR(weights_.Read(a_name, {rank, columns}, 0, a_));
    cached_ = name;
  }
  const int64_t first = begin / columns, last = (end - 1) / columns + 1;
  b_.resize((last - first) * rank);
  RETURN_IF_ERROR(weights_.Read(AdapterName(name, "lora_B"), {rows, rank}, first * rank, b_));
  MergeLora({.columns = columns,
             .rank = rank,
             .scale = scale_,
             .a = a_.data(),
             .b = b_.data(),
             .begin = begin,
             .end = end,
             .w = out});
  return absl::OkStatus();
}

absl::Status AdaptedWeightReader::Read(const std::string& name, const std::vector<int64_t>& shape,
                                       int64_t begin, int64_t end, DType dtype, void* out) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << NameOf(dtype).data();
  const bool merges = adapters_ == Adapters::kMerge && shape.size() == 2 && HasAdapter(name);
  std::vector<float> wide(dtype == DType::kF32 ? 0 : std::min(kMergeElements, end - begin));
  for (int64_t from = begin; from < end;) {
    const int64_t to = std::min(end, from + kMergeElements);
    float* chunk = dtype == DType::kF32 ? static_cast<float*>(out) + (from - begin) : wide.data();
    RETURN_IF_ERROR(weights_.Read(name, shape, from, {chunk, static_cast<size_t>(to - from)}));
    if (merges) RETURN_IF_ERROR(AddAdapter(name, shape, from, to, chunk));
    if (dtype == DType::kBF16) {
      auto* narrow = static_cast<BFloat16*>(out) + (from - begin);
      for (int64_t i = 0; i < to - from; ++i) narrow[i] = kernels::ToBFloat16(chunk[i]);
    }
    from = to;
  }
  return absl::OkStatus();
}

}  // namespace sluice::checkpoints
