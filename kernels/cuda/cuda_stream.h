// A CUDA stream and event. The only CUDA type that the ops' launch code needs is the handle.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "kernels/core/stream.h"

namespace sluice::kernels::cuda {

// INTERNAL with the runtime's name and text of `code`, after `what` was tried; OK for cudaSuccess.
absl::Status StatusOf(cudaError_t code, const char* what);

class CudaEvent : public Event {
 public:
  CudaEvent();
  ~CudaEvent() override;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  cudaEvent_t handle() const { return handle_; }

 private:
  cudaEvent_t handle_ = nullptr;
};

class AttentionLibrary;  // libraries.h
class DenseLibrary;

struct CudaStreamOptions {
  bool only_mma_sync = false;  // no kernel of Hopper's own, where there is a choice
  // Asked before our own kernels; of those who made the stream, or null.
  DenseLibrary* dense = nullptr;
  AttentionLibrary* attention = nullptr;
};

// Enqueuing never reports: the first error is kept and comes out of Synchronize, as do those of the
// kernels themselves.
class CudaStream : public Stream {
 public:
  explicit CudaStream(DeviceId device, const CudaStreamOptions& options = {});
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  // The stream as a CudaStream; CHECKs that it belongs to a CUDA device.
  static CudaStream& From(Stream& stream);

  DeviceId device() const override { return device_; }
  void Record(Event& event) override;
  void Wait(const Event& event) override;
  absl::Status Synchronize() override;
  // Enqueues a copy of equal shapes and dtypes, from and to memory of the device or the host; rows
  // may be strided.
  void Copy(const ConstTensorView& from, const TensorView& to);

  cudaStream_t handle() const { return handle_; }
  const CudaStreamOptions& options() const { return options_; }
  int num_multiprocessors() const { return num_multiprocessors_; }
  // Keeps the first error: what launching or copying returned.
  void Note(cudaError_t code, const char* what);
  void Note(const absl::Status& status);

 private:
  const DeviceId device_;
  const CudaStreamOptions options_;
  int num_multiprocessors_ = 0;
  cudaStream_t handle_ = nullptr;
  absl::Status first_error_;
};

}  // namespace sluice::kernels::cuda
