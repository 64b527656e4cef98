#include "trainer/model/activation_pool.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/core/check.h"

namespace sluice::trainer {

ActivationPool::ActivationPool(kernels::DeviceContext& device, OutOfMemory out_of_memory, Log log)
    : device_(device), out_of_memory_(std::move(out_of_memory)), log_(std::move(log)) {}

// Four sizes per power of two, so that the number of expert rows, which differs every step, soon
// finds its block.
size_t ActivationPool::SizeClass(size_t bytes) {
  constexpr size_t kSmallest = 4096;
  if (bytes <= kSmallest) return kSmallest;
  const size_t quarter = std::bit_floor(bytes - 1) / 4;
  return (bytes + quarter - 1) / quarter * quarter;
}

int ActivationPool::Acquire(size_t bytes) {
  const size_t size = SizeClass(bytes);
  // The smallest free block that is not more than half as large again.
  for (auto it = free_by_size_.lower_bound(size);
       it != free_by_size_.end() && it->first <= size + size / 2; ++it) {
    if (!it->second.empty()) return TakeFrom(it->second);
  }
  auto buffer = device_.Allocate(size, kernels::MemoryTag::kActivations);
  if (!buffer.ok()) {
    out_of_memory_(buffer.status());
    std::abort();
  }
  blocks_.push_back({*std::move(buffer)});
  held_bytes_ += static_cast<int64_t>(size);
  if (log_) {
    log_(absl::StrFormat("activations grow by %d KiB to %.1f MiB", size / 1024,
                         held_bytes_ / 1048576.0));
  }
  return static_cast<int>(blocks_.size()) - 1;
}

bool ActivationPool::MustWait(const Block& block) const {
  const int later = static_cast<int>(role_), earlier = static_cast<int>(block.released_on);
  return later != earlier && block.released_at >= waited_[later][earlier];
}

// The newest that needs no waiting, else the newest.
int ActivationPool::TakeFrom(std::vector<int>& blocks) {
  auto place = blocks.end() - 1;
  for (auto it = blocks.end(); it != blocks.begin();) {
    if (!MustWait(blocks_[*--it])) {
      place = it;
      break;
    }
  }
  const int block = *place;
  blocks.erase(place);
  if (MustWait(blocks_[block])) {
    const kernels::StreamRole earlier = blocks_[block].released_on;
    if (event_ == nullptr) event_ = device_.CreateEvent();
    device_.stream(earlier).Record(*event_);
    device_.stream(role_).Wait(*event_);
    waited_[static_cast<int>(role_)][static_cast<int>(earlier)] = clock_;
  }
  return block;
}

void ActivationPool::Settle() {
  for (auto& later : waited_) std::fill(std::begin(later), std::end(later), clock_);
}

void ActivationPool::Release(int block) {
  CHECK(block >= 0 && block < static_cast<int>(blocks_.size())) << block;
  blocks_[block].released_on = role_;
  blocks_[block].released_at = clock_++;
  free_by_size_[blocks_[block].buffer.size()].push_back(block);
}

TensorView ActivationPool::View(int block, DType dtype, const Shape& shape) const {
  return blocks_[block].buffer.View(dtype, shape);
}

}  // namespace sluice::trainer
