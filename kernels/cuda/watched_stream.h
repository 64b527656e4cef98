// A CUDA stream whose work may wait for ever, such as a message whose sender is gone.
#pragma once

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "kernels/cuda/cuda_stream.h"

namespace sluice::kernels::cuda {

class WatchedStream : public CudaStream {
 public:
  explicit WatchedStream(DeviceId device, const CudaStreamOptions& options = {});

  // Called now and then while Synchronize waits: it ends what waits for ever, and its error comes
  // out of this Synchronize. Null: none, and nothing is polled.
  void Watch(std::function<absl::Status()> check) { check_ = std::move(check); }

  absl::Status Synchronize() override;

 private:
  std::function<absl::Status()> check_;
};

// Whether its stream has reached the event; true where it was never recorded.
bool IsDone(const CudaEvent& event);

}  // namespace sluice::kernels::cuda
