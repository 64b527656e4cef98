// How many bytes of a device are held, by kind; printed at start and whenever memory runs out.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace sluice::kernels {

enum class MemoryTag : uint8_t {
  kParameters,
  kGradients,
  kOptimizer,
  kActivations,
  kCommunication,
  kScratch
};
inline constexpr int kNumMemoryTags = 6;
absl::string_view NameOf(MemoryTag tag);

class MemoryTable {  // any thread
 public:
  void Add(MemoryTag tag, int64_t bytes);  // negative: freed
  int64_t bytes(MemoryTag tag) const { return held_[static_cast<size_t>(tag)]; }
  int64_t total_bytes() const;
  int64_t num_allocations() const { return num_allocations_; }  // ever made
  std::string ToString() const;  // one line a kind and a total, in MiB
  std::string OneLine() const;   // the same for a sentence: "parameters 1.5, ..., total 20.0"

 private:
  std::array<std::atomic<int64_t>, kNumMemoryTags> held_{};
  std::atomic<int64_t> num_allocations_{0};
};

}  // namespace sluice::kernels
