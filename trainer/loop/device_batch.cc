#include "trainer/loop/device_batch.h"

#include <algorithm>

#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::trainer {
namespace {

constexpr int32_t kNoTarget = -1;

// document[i]: how many documents begin in (0, i].
std::vector<int32_t> DocumentOf(const std::vector<int32_t>& starts, int64_t length) {
  std::vector<int32_t> document(length, 0);
  for (int32_t start : starts) {
    if (start > 0 && start < length) document[start] += 1;
  }
  for (int64_t i = 1; i < length; ++i) document[i] += document[i - 1];
  return document;
}

int64_t CountTargets(const std::vector<int32_t>& targets) {
  return std::count_if(targets.begin(), targets.end(), [](int32_t target) { return target >= 0; });
}

}  // namespace

DeviceBatch::Part DeviceBatch::Append(std::span<const int32_t> values) {
  const Part part{static_cast<int64_t>(host_.size()), static_cast<int64_t>(values.size())};
  host_.insert(host_.end(), values.begin(), values.end());
  host_.resize((host_.size() + 15) / 16 * 16, 0);
  return part;
}

ConstTensorView DeviceBatch::View(const Part& part) const {
  return storage_.View(DType::kI32, {part.count},
                       static_cast<size_t>(part.begin) * sizeof(int32_t));
}

// Parts: tokens, targets, positions, sequence starts, attention starts, then tokens and targets of
// each MTP depth.
void DeviceBatch::AppendMicrobatch(const HostBatch& batch, int64_t first, int64_t sequences) {
  const int64_t length = options_.sequence_length;
  std::vector<int32_t> inputs, targets, positions, sequence_starts = {0}, starts = {0};
  std::vector<std::vector<int32_t>> mtp_tokens(options_.mtp_depth), mtp_targets(options_.mtp_depth);
  for (int64_t s = 0; s < sequences; ++s) {
    const int32_t* row = batch.tokens.data() + (first + s) * (length + 1);
    const uint8_t* is_target =
        batch.is_target.empty() ? nullptr : batch.is_target.data() + (first + s) * (length + 1);
    const int64_t last_target =
        batch.num_targets[first + s];  // place of the last token that is a target
    const std::vector<int32_t> document = DocumentOf(
        options_.document_mask ? batch.document_starts[first + s] : std::vector<int32_t>(),
        length + 1);
    for (int64_t i = 0; i < length; ++i) {
      if (i > 0 && document[i] != document[i - 1])
        starts.push_back(static_cast<int32_t>(s * length + i));
      inputs.push_back(row[i]);
      const auto is_learned = [&](int64_t place) {
        return place <= last_target && (is_target == nullptr || is_target[place] != 0);
      };
      targets.push_back(is_learned(i + 1) ? row[i + 1] : kNoTarget);
      positions.push_back(static_cast<int32_t>(i));
      for (int depth = 1; depth <= options_.mtp_depth; ++depth) {
        const bool has_token = i + depth <= length, has_target = is_learned(i + depth + 1);
        const bool crosses = has_target && document[i + depth + 1] != document[i];
        mtp_tokens[depth - 1].push_back(has_token ? row[i + depth] : 0);
        mtp_targets[depth - 1].push_back(has_target && !crosses ? row[i + depth + 1] : kNoTarget);
      }
    }
    sequence_starts.push_back(static_cast<int32_t>((s + 1) * length));
    starts.push_back(static_cast<int32_t>((s + 1) * length));
  }
  num_targets_ += CountTargets(targets);
  std::vector<Part> parts = {Append(inputs), Append(targets), Append(positions),
                             Append(sequence_starts), Append(starts)};
  for (int depth = 0; depth < options_.mtp_depth; ++depth) {
    parts.push_back(Append(mtp_tokens[depth]));
    parts.push_back(Append(mtp_targets[depth]));
    num_mtp_targets_ += CountTargets(mtp_targets[depth]);
  }
  parts_.push_back(std::move(parts));
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
  inputs_.assign(parts_.size(), MicrobatchInput());
  for (size_t m = 0; m < parts_.size(); ++m) {
    const std::vector<Part>& parts = parts_[m];
    MicrobatchInput& input = inputs_[m];
    input.num_sequences = options_.microbatch;
    input.sequence_length = options_.sequence_length;
    input.first_sequence = first_sequence + static_cast<int64_t>(m) * options_.microbatch;
    input.tokens = View(parts[0]);
    input.targets = View(parts[1]);
    input.positions = View(parts[2]);
    input.sequence_starts = View(parts[3]);
    input.starts = View(parts[4]);
    for (int depth = 0; depth < options_.mtp_depth; ++depth) {
      input.mtp_tokens.push_back(View(parts[5 + 2 * depth]));
      input.mtp_targets.push_back(View(parts[6 + 2 * depth]));
    }
  }
  return stream.Synchronize();
}

}  // namespace sluice::trainer
