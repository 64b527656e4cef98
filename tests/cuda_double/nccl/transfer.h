// One message through a channel: what it says of itself first, so that both ends can be held to the
// same call, then its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/cuda_double/nccl/shared_group.h"

namespace sluice::cuda_double {

enum class CallKind : uint32_t { kPointToPoint, kAllGather, kBroadcast };

struct MessageHeader {
  CallKind kind = CallKind::kPointToPoint;
  uint32_t dtype = 0;  // ncclDataType_t
  uint64_t count = 0;
  friend bool operator==(const MessageHeader&, const MessageHeader&) = default;
};
std::string Describe(const MessageHeader& header);

struct Transfer {
  bool sends = false;
  int peer = 0;
  char* data = nullptr;  // of a send it is only read
  size_t bytes = 0;
  MessageHeader header;

  uint64_t moved = 0;      // of the header, then of the data
  uint64_t end = 0;        // a send's: what the receiver must have read; 0: not all is written
  MessageHeader received;  // a receive's
};

// Moves what can be moved now. "" or what does not fit. A send is done when all has been received:
// nothing may count on a library's buffers.
std::string Advance(Transfer& transfer, Channel& channel, bool* is_done);

}  // namespace sluice::cuda_double
