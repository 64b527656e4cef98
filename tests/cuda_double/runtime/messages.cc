// Work that waits for other processes. A GPU goes on with it whatever its host does; here a thread
// of the double's takes the host's place while the host is elsewhere.
#include <chrono>
#include <thread>

#include "tests/cuda_double/runtime/runtime.h"

namespace sluice::cuda_double {
namespace {

constexpr auto kBetweenLooks = std::chrono::microseconds(100), kIdle = 10 * kBetweenLooks;
// Far more than a busy machine needs; a message that waits longer never comes.
constexpr auto kPatience = std::chrono::seconds(120);

}  // namespace

cudaError_t Runtime::EnqueueMessage(StreamState& stream, Message message) {
  if (broken_ != cudaSuccess) return Finish(broken_);
  if (IsCapturing(stream)) {
    return Break(cudaErrorNotSupported, message.name + ": messages in graphs are not modelled");
  }
  const OpId op = NewOp(stream, message.name);
  stream.queue.push_back(
      {.run = std::move(message.finish),
       .is_ready = [advance = std::move(message.advance), op] { return advance(op); }});
  stream.newest_message = ++stream.num_enqueued;
  StartAdvancing();
  if (configuration_.timing == Timing::kEarly) TryRunTo({&stream, stream.num_enqueued});
  if (configuration_.timing == Timing::kRandom) RunSomeAtRandom();
  return Finish(cudaSuccess);
}

bool Runtime::AdvanceMessages() {
  bool some_wait = false;
  for (size_t i = 0; i < streams_.size(); ++i) {
    StreamState& stream = *streams_[i];
    if (stream.num_done >= stream.newest_message) continue;
    some_wait |= !TryRunTo({&stream, stream.newest_message});
  }
  return some_wait;
}

void Runtime::StartAdvancing() {
  if (is_advancing_) return;
  is_advancing_ = true;
  std::thread([this] {
    while (true) {
      bool some_wait = false;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        some_wait = AdvanceMessages();
      }
      std::this_thread::sleep_for(some_wait ? kBetweenLooks : kIdle);
    }
  }).detach();
}

// The host waits. Messages of all streams go on meanwhile: what it waits for may need them, here or
// in another process.
void Runtime::RunTo(const StreamPlace& place) {
  const auto start = std::chrono::steady_clock::now();
  while (!TryRunTo(place)) {
    AdvanceMessages();
    std::this_thread::sleep_for(kBetweenLooks);
    if (std::chrono::steady_clock::now() - start < kPatience) continue;
    Break(cudaErrorLaunchTimeout, "deadlock: a message has waited for its peer for 120 seconds");
  }
}

}  // namespace sluice::cuda_double
