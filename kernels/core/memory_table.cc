#include "kernels/core/memory_table.h"

#include "absl/strings/str_format.h"

namespace sluice::kernels {

absl::string_view NameOf(MemoryTag tag) {
  switch (tag) {
    case MemoryTag::kParameters:
      return "parameters";
    case MemoryTag::kGradients:
      return "gradients";
    case MemoryTag::kOptimizer:
      return "optimizer";
    case MemoryTag::kActivations:
      return "activations";
    case MemoryTag::kCommunication:
      return "communication";
    case MemoryTag::kScratch:
      return "scratch";
  }
  return "?";
}

void MemoryTable::Add(MemoryTag tag, int64_t bytes) {
  held_[static_cast<size_t>(tag)] += bytes;
  if (bytes > 0) ++num_allocations_;
}

int64_t MemoryTable::total_bytes() const {
  int64_t total = 0;
  for (const auto& bytes : held_) total += bytes;
  return total;
}

std::string MemoryTable::ToString() const {
  std::string text;
  for (int i = 0; i < kNumMemoryTags; ++i) {
    const auto tag = static_cast<MemoryTag>(i);
    absl::StrAppendFormat(&text, "  %-14s %10.1f MiB\n", NameOf(tag), bytes(tag) / 1048576.0);
  }
  absl::StrAppendFormat(&text, "  %-14s %10.1f MiB\n", "total", total_bytes() / 1048576.0);
  return text;
}

std::string MemoryTable::OneLine() const {
  std::string text;
  for (int i = 0; i < kNumMemoryTags; ++i) {
    const auto tag = static_cast<MemoryTag>(i);
    absl::StrAppendFormat(&text, "%s %.1f, ", NameOf(tag), bytes(tag) / 1048576.0);
  }
  absl::StrAppendFormat(&text, "total %.1f", total_bytes() / 1048576.0);
  return text;
}

}  // namespace sluice::kernels
