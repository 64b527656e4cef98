#include "trainer/loop/device_batch.h"

#include <algorithm>

#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::trainer {
namespace {

constexpr int32_t kNoTarget = -1;

}  // namespace

std::span<int32_t> DeviceBatch::Append(int64_t count) {
  const auto begin = static_cast<int64_t>(host_.size());
  parts_.push_back({begin, count});
  host_.resize((begin + count + 15) / 16 * 16, 0);
  return std::span(host_).subspan(begin, count);
}

ConstTensorView DeviceBatch::View(const Part& part) const {
  return storage_.View(DType::kI32, {part.count},
                       static_cast<size_t>(part.begin) * sizeof(int32_t));
}

// document_: how many documents begin in (0, i] of each row; starts_: where attention begins anew.
void DeviceBatch::FindDocuments(const HostBatch& batch, int64_t first, int64_t sequences) {
  const int64_t length = options_.sequence_length;
  document_.assign(sequences * (length + 1), 0);
  starts_.assign(1, 0);
  for (int64_t s = 0; s < sequences; ++s) {
    int32_t* document = document_.data() + s * (length + 1);
    if (options_.document_mask) {
      for (const int32_t start : batch.document_starts[first + s]) {
        if (start > 0 && start <= length) document[start] += 1;
      }
    }
    for (int64_t i = 1; i <= length; ++i) {
      if (document[i] > 0 && i < length) starts_.push_back(static_cast<int32_t>(s * length + i));
      document[i] += document[i - 1];
    }
    starts_.push_back(static_cast<int32_t>((s + 1) * length));
  }
}

// Depth 0: what the main model reads and predicts; depth d: what the module of that depth does.
void DeviceBatch::AppendTargets(const HostBatch& batch, int64_t first, int64_t sequences,
                                int depth) {
  const int64_t length = options_.sequence_length, row = length + 1;
  const std::span<int32_t> tokens = Append(sequences * length);
  for (int64_t s = 0; s < sequences; ++s) {
    const int32_t* from = batch.tokens.data() + (first + s) * row;
    for (int64_t i = 0; i < length; ++i) {
      tokens[s * length + i] = i + depth <= length ? from[i + depth] : 0;
    }
  }
  const std::span<int32_t> targets = Append(sequences * length);
  int64_t& count = depth == 0 ? num_targets_ : num_mtp_targets_;
  for (int64_t s = 0; s < sequences; ++s) {
    const int32_t* from = batch.tokens.data() + (first + s) * row;
    const uint8_t* is_target =
        batch.is_target.empty() ? nullptr : batch.is_target.data() + (first + s) * row;
    const int32_t* document = document_.data() + s * row;
    // Place of the last token that is a target.
    const int64_t last = batch.num_targets[first + s];
    for (int64_t i = 0; i < length; ++i) {
      const int64_t place = i + depth + 1;
      const bool is_learned = place <= last && (is_target == nullptr || is_target[place] != 0) &&
                              (depth == 0 || document[place] == document[i]);
      targets[s * length + i] = is_learned ? from[place] : kNoTarget;
      count += is_learned ? 1 : 0;
    }
  }
}

// Parts: tokens and targets of the main model and of each MTP depth, positions, sequence starts,
// attention starts.
void DeviceBatch::AppendMicrobatch(const HostBatch& batch, int64_t first, int64_t sequences) {
  const int64_t length = options_.sequence_length;
  FindDocuments(batch, first, sequences);
  for (int depth = 0; depth <= options_.mtp_depth; ++depth) {
    AppendTargets(batch, first, sequences, depth);
  }
  const std::span<int32_t> positions = Append(sequences * length);
  for (int64_t i = 0; i < sequences * length; ++i) {
    positions[i] = static_cast<int32_t>(i % length);
  }
  const std::span<int32_t> sequence_starts = Append(sequences + 1);
  for (int64_t s = 0; s <= sequences; ++s) {
    sequence_starts[s] = static_cast<int32_t>(s * length);
  }
  // Room for the most that there can be, so that the next batches fit.
  const std::span<int32_t> starts =
      Append(options_.document_mask ? sequences * length + 1 : sequences + 1);
  std::copy(starts_.begin(), starts_.end(), starts.begin());
  parts_.back().count = static_cast<int64_t>(starts_.size());
}

absl::Status DeviceBatch::Load(const HostBatch& batch, int64_t first_sequence) {
  const int64_t sequences = static_cast<int64_t>(batch.num_targets.size());
  CHECK_EQ(sequences * (options_.sequence_length + 1), static_cast<int64_t>(batch.tokens.size()));
  CHECK_EQ(sequences % options_.microbatch, 0);
  host_.clear();
  parts_.clear();
  num_targets_ = num_mtp_targets_ = 0;
  for (int64_t s = 0; s < sequences; s += options_.microbatch)
    AppendMicrobatch(batch, s, options_.microbatch);
  if (storage_.size() < host_.size() * sizeof(int32_t)) {
    storage_ = kernels::Buffer();
    ASSIGN_OR_RETURN(storage_, device_.Allocate(host_.size() * sizeof(int32_t),
                                                kernels::MemoryTag::kActivations));
  }
  auto& stream = device_.stream(kernels::StreamRole::kCompute);
  const Shape shape = {static_cast<int64_t>(host_.size())};
  device_.Copy(ConstTensorView(host_.data(), DType::kI32, shape), storage_.View(DType::kI32, shape),
               stream);
  const int depths = options_.mtp_depth + 1, parts_each = 2 * depths + 3;
  inputs_.resize(parts_.size() / parts_each);
  for (size_t m = 0; m < inputs_.size(); ++m) {
    const Part* parts = parts_.data() + m * parts_each;
    MicrobatchInput& input = inputs_[m];
    input.num_sequences = options_.microbatch;
    input.sequence_length = options_.sequence_length;
    input.first_sequence = first_sequence + static_cast<int64_t>(m) * options_.microbatch;
    input.tokens = View(parts[0]);
    input.targets = View(parts[1]);
    input.mtp_tokens.resize(options_.mtp_depth);
    input.mtp_targets.resize(options_.mtp_depth);
    for (int depth = 1; depth < depths; ++depth) {
      input.mtp_tokens[depth - 1] = View(parts[2 * depth]);
      input.mtp_targets[depth - 1] = View(parts[2 * depth + 1]);
    }
    input.positions = View(parts[2 * depths]);
    input.sequence_starts = View(parts[2 * depths + 1]);
    input.starts = View(parts[2 * depths + 2]);
  }
  return stream.Synchronize();
}

}  // namespace sluice::trainer
