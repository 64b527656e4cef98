// A rank's sequences of one step on its device, cut in microbatches.   L sequence length, D MTP
// depth
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/core/device.h"
#include "trainer/model/context.h"

namespace sluice::trainer {

struct BatchOptions {
  int64_t sequence_length = 0, microbatch = 1;  // microbatch: sequences
  int mtp_depth = 0;
  bool document_mask = false;
};

// Sequences on the host.
struct HostBatch {
  std::vector<int32_t> tokens;  // [sequences * (L + 1)], the last of each sequence only a target
  // [sequences]: ascending places in [0, L] where a document begins (place 0 may be left out); read
  // only with document_mask.
  std::vector<std::vector<int32_t>> document_starts;
  std::vector<int64_t> num_targets;  // [sequences] how many targets are real, the others padding
  // [sequences * (L + 1)] 1: a target, as BatchSource::ReadTargetMask; empty: num_targets says it.
  std::vector<uint8_t> is_target = {};
};

class DeviceBatch {
 public:
  DeviceBatch(kernels::DeviceContext& device, const BatchOptions& options)
      : device_(device), options_(options) {}

  // first_sequence: index of the first sequence in the global batch. The number of sequences must
  // be a multiple of the microbatch.
  absl::Status Load(const HostBatch& batch, int64_t first_sequence);

  const std::vector<MicrobatchInput>& inputs() const { return inputs_; }
  int64_t num_targets() const { return num_targets_; }          // of this rank
  int64_t num_mtp_targets() const { return num_mtp_targets_; }  // of this rank, all depths

 private:
  // Where a part of the device array begins, and how long it is.
  struct Part {
    int64_t begin = 0, count = 0;
  };
  // `count` numbers at the end of host_; valid until the next call.
  std::span<int32_t> Append(int64_t count);
  ConstTensorView View(const Part& part) const;
  void AppendMicrobatch(const HostBatch& batch, int64_t first, int64_t sequences);
  void AppendTargets(const HostBatch& batch, int64_t first, int64_t sequences, int depth);
  void FindDocuments(const HostBatch& batch, int64_t first, int64_t sequences);

  kernels::DeviceContext& device_;
  const BatchOptions options_;
  // All of these keep their memory from step to step.
  std::vector<int32_t> host_;
  std::vector<int32_t> document_;  // [sequences, L + 1] of a microbatch: which document of its row
  std::vector<int32_t> starts_;    // of attention, of a microbatch
  std::vector<Part> parts_;        // [microbatch, part], in the order of AppendMicrobatch
  kernels::Buffer storage_;
  std::vector<MicrobatchInput> inputs_;
  int64_t num_targets_ = 0, num_mtp_targets_ = 0;
};

}  // namespace sluice::trainer
