#include "launch/finish_together.h"

#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace sluice::launch {

absl::Status FinishTogether(const absl::Status& result, parallel::Communicator& group,
                            std::chrono::milliseconds patience) {
  std::mutex mutex;
  std::condition_variable all_came;
  bool is_over = false;
  std::thread watch;
  if (!result.ok()) {
    watch = std::thread([&] {
      std::unique_lock<std::mutex> lock(mutex);
      if (!all_came.wait_for(lock, patience, [&] { return is_over; })) group.Abort(result);
    });
  }
  const auto messages = group.GatherBytes(std::string(result.message()));
  {
    const std::lock_guard<std::mutex> lock(mutex);
    is_over = true;
  }
  all_came.notify_all();
  if (watch.joinable()) watch.join();
  if (!messages.ok()) return result.ok() ? messages.status() : result;
  std::set<std::string> printed;
  for (const std::string& message : *messages) {  // empty but on the first rank
    if (message.empty() || !printed.insert(message).second) continue;
    std::fprintf(stderr, "sluice: %s\n", message.c_str());
  }
  return result;
}

}  // namespace sluice::launch
