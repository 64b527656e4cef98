// Communicators around another one: one writes down every call, the other misbehaves on purpose.
// For tests and for looking at what really ran; both pass everything on.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace sluice::parallel {

// The calls of one rank in the order they were made. Any thread.
class CallLog {
 public:
  void Add(std::string line);
  std::vector<std::string> lines() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

// Adds one line to `log` before each call, such as
//   all_reduce sum f32 [4, 8]        all_to_all f32 [3, 8] 1+2 -> [4, 8] 0+4
//   broadcast i32 [7] from 0         send bf16 [2, 8] to 1 tag 3
//   gather_bytes 12                  split color 1 key 0
// The group made by the n-th split writes to the same log, its lines headed by "g<n> " (for its own
// splits "g<n>.<m> "). `log` must outlive all of them.
std::unique_ptr<Communicator> CreateTracingCommunicator(std::unique_ptr<Communicator> inner,
                                                        CallLog& log);

// Calls are counted from 0, over all methods but rank, size and Abort, the group and its splits
// together; -1: never.
struct Faults {
  int64_t fail_at = -1;   // that call is not made and returns INTERNAL; later ones work
  int64_t die_at = -1;    // that call and all later ones return UNAVAILABLE, and peers stuck with
                          // this rank are freed by Abort, as if its process had gone
  int64_t delay_at = -1;  // that call first waits for `delay`
  std::chrono::microseconds delay{0};
};
std::unique_ptr<Communicator> CreateFaultyCommunicator(std::unique_ptr<Communicator> inner,
                                                       const Faults& faults);

}  // namespace sluice::parallel
