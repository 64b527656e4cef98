#include "kernels/cuda/watched_stream.h"

#include <chrono>
#include <thread>

namespace sluice::kernels::cuda {

WatchedStream::WatchedStream(DeviceId device, const CudaStreamOptions& options)
    : CudaStream(device, options) {}

absl::Status WatchedStream::Synchronize() {
  if (check_ == nullptr) return CudaStream::Synchronize();
  constexpr auto kBetweenChecks = std::chrono::milliseconds(20);
  auto last = std::chrono::steady_clock::now();
  absl::Status watched;
  while (watched.ok() && cudaStreamQuery(handle()) == cudaErrorNotReady) {
    std::this_thread::yield();
    const auto now = std::chrono::steady_clock::now();
    if (now - last < kBetweenChecks) continue;
    last = now;
    watched = check_();
  }
  cudaGetLastError();  // "not ready" is no error; others come out of the wait that follows
  const absl::Status waited = CudaStream::Synchronize();
  return watched.ok() ? waited : watched;
}

bool IsDone(const CudaEvent& event) {
  if (cudaEventQuery(event.handle()) != cudaErrorNotReady) return true;
  cudaGetLastError();
  return false;
}

}  // namespace sluice::kernels::cuda
