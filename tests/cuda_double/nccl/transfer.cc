#include "tests/cuda_double/nccl/transfer.h"

#include <algorithm>
#include <cstring>

namespace sluice::cuda_double {
namespace {

constexpr uint64_t kHeader = sizeof(MessageHeader);

// Copies between `memory` and the channel's ring, which `at` may wrap around.
void CopyRing(Channel& channel, uint64_t at, char* memory, uint64_t bytes, bool into_channel) {
  while (bytes > 0) {
    const uint64_t place = at % kChannelBytes, part = std::min(bytes, kChannelBytes - place);
    if (into_channel) {
      std::memcpy(channel.bytes + place, memory, part);
    } else {
      std::memcpy(memory, channel.bytes + place, part);
    }
    at += part;
    memory += part;
    bytes -= part;
  }
}

// Where byte number `moved` of header and data lies, and how many follow it there.
struct Place {
  char* memory;
  uint64_t bytes;
};
Place PlaceOf(Transfer& transfer) {
  if (transfer.moved >= kHeader) {
    const uint64_t at = transfer.moved - kHeader;
    return {transfer.data + at, transfer.bytes - at};
  }
  MessageHeader& header = transfer.sends ? transfer.header : transfer.received;
  return {reinterpret_cast<char*>(&header) + transfer.moved, kHeader - transfer.moved};
}

void Write(Transfer& transfer, Channel& channel, bool* is_done) {
  const uint64_t total = kHeader + transfer.bytes;
  while (transfer.moved < total) {
    const uint64_t written = channel.written.load(std::memory_order_relaxed);
    const uint64_t room = kChannelBytes - (written - channel.read.load(std::memory_order_acquire));
    const Place place = PlaceOf(transfer);
    const uint64_t part = std::min(room, place.bytes);
    if (part == 0) return;
    CopyRing(channel, written, place.memory, part, /*into_channel=*/true);
    channel.written.store(written + part, std::memory_order_release);
    transfer.moved += part;
    if (transfer.moved == total) transfer.end = written + part;
  }
  *is_done = channel.read.load(std::memory_order_acquire) >= transfer.end;
}

std::string Read(Transfer& transfer, Channel& channel, bool* is_done) {
  const uint64_t total = kHeader + transfer.bytes;
  while (transfer.moved < total) {
    const uint64_t read = channel.read.load(std::memory_order_relaxed);
    const uint64_t ready = channel.written.load(std::memory_order_acquire) - read;
    const Place place = PlaceOf(transfer);
    const uint64_t part = std::min(ready, place.bytes);
    if (part == 0) return "";
    CopyRing(channel, read, place.memory, part, /*into_channel=*/false);
    channel.read.store(read + part, std::memory_order_release);
    transfer.moved += part;
    if (transfer.moved == kHeader && !(transfer.received == transfer.header)) {
      return "waits for " + Describe(transfer.header) + " from rank " +
             std::to_string(transfer.peer) + ", which sends " + Describe(transfer.received);
    }
  }
  *is_done = true;
  return "";
}

}  // namespace

std::string Describe(const MessageHeader& header) {
  static constexpr const char* kNames[] = {"a message", "an all-gather", "a broadcast"};
  return std::string(kNames[static_cast<int>(header.kind)]) + " of " +
         std::to_string(header.count) + " elements of type " + std::to_string(header.dtype);
}

std::string Advance(Transfer& transfer, Channel& channel, bool* is_done) {
  *is_done = false;
  if (!transfer.sends) return Read(transfer, channel, is_done);
  Write(transfer, channel, is_done);
  return "";
}

}  // namespace sluice::cuda_double
