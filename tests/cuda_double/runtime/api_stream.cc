// Streams, events, errors and what a program asks about the device.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "tests/cuda_double/exec/run_launch.h"
#include "tests/cuda_double/runtime/runtime.h"

using namespace sluice::cuda_double;  // NOLINT: this file is the outside of that namespace

namespace {

using Lock = std::lock_guard<std::mutex>;

EventState& EventOf(cudaEvent_t event) { return *reinterpret_cast<EventState*>(event); }

struct NamedError {
  cudaError_t code;
  const char *name, *text;
};
constexpr NamedError kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidPtx, "cudaErrorInvalidPtx", "PTX that the double cannot run; see its report"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "not modelled by the double; see its report"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "not allowed now; see the double's report"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "a kernel failed; see the double's report"},
};

const NamedError& Named(cudaError_t code) {
  static constexpr NamedError kUnknown = {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"};
  for (const NamedError& error : kErrors) {
    if (error.code == code) return error;
  }
  return kUnknown;
}

}  // namespace

namespace {

// Ten times the version. CUDA_DOUBLE_CAPABILITY=89 plays a device that this program must refuse.
int Capability() {
  const char* text = std::getenv("CUDA_DOUBLE_CAPABILITY");
  return text == nullptr ? 90 : std::atoi(text);
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (flags != cudaStreamNonBlocking) {
    return runtime.Break(cudaErrorNotSupported,
                         "cudaStreamCreateWithFlags: streams that wait for the default stream are "
                         "not modelled");
  }
  *stream = reinterpret_cast<cudaStream_t>(runtime.CreateStream());
  return runtime.Finish(cudaSuccess);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  runtime.DestroyStream(runtime.Stream(stream));
  return runtime.Finish(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaStreamSynchronize");
      refused != cudaSuccess) {
    return refused;
  }
  return runtime.Synchronize(*runtime.Stream(stream));
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaStreamQuery");
      refused != cudaSuccess) {
    return refused;
  }
  StreamState& stream = *runtime.Stream(handle);
  if (!runtime.TryRunTo({&stream, stream.num_enqueued})) return cudaErrorNotReady;
  return runtime.Synchronize(stream);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaStreamWaitEvent");
      refused != cudaSuccess) {
    return refused;
  }
  runtime.Wait(*runtime.Stream(stream), EventOf(event));
  return runtime.Finish(cudaSuccess);
}
cudaError_t cudaDeviceSynchronize() {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaDeviceSynchronize");
      refused != cudaSuccess) {
    return refused;
  }
  return runtime.SynchronizeAll();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new EventState);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &EventOf(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaEventRecord");
      refused != cudaSuccess) {
    return refused;
  }
  runtime.Record(EventOf(event), *runtime.Stream(stream));
  return runtime.Finish(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaEventSynchronize");
      refused != cudaSuccess) {
    return refused;
  }
  const EventState& state = EventOf(event);
  if (state.place.stream == nullptr) return runtime.Finish(cudaSuccess);
  runtime.RunTo(state.place);
  runtime.clocks().Join(kHostTimeline, state.snapshot);
  return runtime.Finish(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaEventQuery");
      refused != cudaSuccess) {
    return refused;
  }
  const EventState& state = EventOf(event);
  if (state.place.stream == nullptr) return runtime.Finish(cudaSuccess);
  if (!runtime.TryRunTo(state.place)) return cudaErrorNotReady;
  runtime.clocks().Join(kHostTimeline, state.snapshot);
  return runtime.Finish(cudaSuccess);
}

cudaError_t cudaGetLastError() {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  const cudaError_t code = runtime.Finish(runtime.last_error);
  runtime.last_error = cudaSuccess;
  return code;
}
cudaError_t cudaPeekAtLastError() {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  return runtime.Finish(runtime.last_error);
}
const char* cudaGetErrorName(cudaError_t code) { return Named(code).name; }
const char* cudaGetErrorString(cudaError_t code) { return Named(code).text; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int) {
  std::snprintf(text, static_cast<size_t>(length), "0000:01:00.0");
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = Capability() / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = Capability() % 10;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(kMostSharedBytes);
      return cudaSuccess;
    default: {
      Runtime& runtime = Runtime::Get();
      const Lock lock(runtime.mutex());
      return runtime.Break(cudaErrorNotSupported,
                           "cudaDeviceGetAttribute: this attribute is not modelled");
    }
  }
}

}  // extern "C"
