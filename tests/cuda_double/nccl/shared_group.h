// The memory that the processes of one communicator share: a channel for each pair of ranks, and
// who has come, left or failed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sluice::cuda_double {

inline constexpr int kMostRanks = 16;
inline constexpr size_t kChannelBytes = 64 << 10;

// Bytes from one rank to another, in order: those between `read` and `written` are under way.
struct Channel {
  std::atomic<uint64_t> written, read;
  char bytes[kChannelBytes];
};

class SharedGroup {
 public:
  // Waits until all `num_ranks` processes have called it with this name. Null, and why, if one is
  // here twice, says another number of ranks, or does not come.
  static std::shared_ptr<SharedGroup> Join(const std::string& name, int num_ranks, int rank,
                                           std::string* why);
  ~SharedGroup();
  SharedGroup(const SharedGroup&) = delete;
  SharedGroup& operator=(const SharedGroup&) = delete;

  int num_ranks() const { return num_ranks_; }
  Channel& ChannelOf(int from, int to) { return channels_[from * num_ranks_ + to]; }
  // A rank that broke off; -1: none. The first one stays.
  int failed_rank() const { return static_cast<int>(header_->failed.load()) - 1; }
  void Fail(int rank);

 private:
  struct Header {
    std::atomic<uint32_t> num_ranks, arrived, failed;
    std::atomic<uint32_t> taken[kMostRanks];
  };
  SharedGroup(void* memory, size_t bytes, int num_ranks);
  std::string Arrive(int rank);

  Header* const header_;
  Channel* const channels_;
  const size_t bytes_;
  const int num_ranks_;
};

}  // namespace sluice::cuda_double
