#include "launch/stop_signal.h"

#include <atomic>
#include <csignal>

#include "kernels/core/check.h"

namespace sluice::launch {
namespace {

// A signal handler can reach nothing but a global.
std::atomic<bool> stop_requested = false;
static_assert(std::atomic<bool>::is_always_lock_free);

void OnStopSignal(int /*signal*/) { stop_requested.store(true, std::memory_order_relaxed); }

}  // namespace

void CatchStopSignals() {
  struct sigaction action = {};
  action.sa_handler = OnStopSignal;
  action.sa_flags = SA_RESTART;  // reads and writes under way go on
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    CHECK_EQ(sigaction(signal, &action, nullptr), 0);
  }
}

bool StopRequested() { return stop_requested.load(std::memory_order_relaxed); }

}  // namespace sluice::launch
