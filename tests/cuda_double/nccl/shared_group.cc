#include "tests/cuda_double/nccl/shared_group.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace sluice::cuda_double {
namespace {

constexpr size_t kHeaderBytes = 4096;
constexpr auto kPatience = std::chrono::seconds(120);

}  // namespace

SharedGroup::SharedGroup(void* memory, size_t bytes, int num_ranks)
    : header_(static_cast<Header*>(memory)),
      channels_(reinterpret_cast<Channel*>(static_cast<char*>(memory) + kHeaderBytes)),
      bytes_(bytes),
      num_ranks_(num_ranks) {
  static_assert(sizeof(Header) <= kHeaderBytes);
}

SharedGroup::~SharedGroup() { munmap(header_, bytes_); }

// New shared memory is zero, which is the state that everything starts from.
std::shared_ptr<SharedGroup> SharedGroup::Join(const std::string& name, int num_ranks, int rank,
                                               std::string* why) {
  if (num_ranks < 1 || num_ranks > kMostRanks || rank < 0 || rank >= num_ranks) {
    *why = "rank " + std::to_string(rank) + " of " + std::to_string(num_ranks);
    return nullptr;
  }
  const size_t ranks = static_cast<size_t>(num_ranks);
  const size_t bytes = kHeaderBytes + ranks * ranks * sizeof(Channel);
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) {
    *why = "no shared memory named " + name;
    if (file >= 0) close(file);
    return nullptr;
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) {
    *why = "shared memory cannot be mapped";
    return nullptr;
  }
  std::shared_ptr<SharedGroup> group(new SharedGroup(memory, bytes, num_ranks));
  *why = group->Arrive(rank);
  shm_unlink(name.c_str());  // all are in, or none will come
  return why->empty() ? group : nullptr;
}

std::string SharedGroup::Arrive(int rank) {
  uint32_t expected = 0;
  const auto mine = static_cast<uint32_t>(num_ranks_);
  if (!header_->num_ranks.compare_exchange_strong(expected, mine) && expected != mine) {
    return "one rank joins a group of " + std::to_string(expected) + ", another of " +
           std::to_string(mine);
  }
  if (header_->taken[rank].exchange(1) != 0)
    return "two processes are rank " + std::to_string(rank);
  ++header_->arrived;
  const auto start = std::chrono::steady_clock::now();
  while (header_->arrived < mine) {
    if (std::chrono::steady_clock::now() - start > kPatience) {
      return "only " + std::to_string(header_->arrived) + " of " + std::to_string(mine) +
             " ranks came in 120 seconds";
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return "";
}

void SharedGroup::Fail(int rank) {
  uint32_t nobody = 0;
  header_->failed.compare_exchange_strong(nobody, static_cast<uint32_t>(rank) + 1);
}

}  // namespace sluice::cuda_double
