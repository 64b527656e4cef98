#include "kernels/cuda/cuda_stream.h"

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace sluice::kernels::cuda {

absl::Status StatusOf(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("CUDA: ", what, ": ", cudaGetErrorName(code), ": ", cudaGetErrorString(code)));
}

CudaEvent::CudaEvent() {
  const cudaError_t code = cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming);
  CHECK(code == cudaSuccess) << cudaGetErrorString(code);
}

CudaEvent::~CudaEvent() { cudaEventDestroy(handle_); }

CudaStream::CudaStream(DeviceId device, const CudaStreamOptions& options)
    : device_(device), options_(options) {
  cudaError_t code = cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking);
  CHECK(code == cudaSuccess) << cudaGetErrorString(code);
  code =
      cudaDeviceGetAttribute(&num_multiprocessors_, cudaDevAttrMultiProcessorCount, device.index);
  CHECK(code == cudaSuccess) << cudaGetErrorString(code);
}

CudaStream::~CudaStream() { cudaStreamDestroy(handle_); }

CudaStream& CudaStream::From(Stream& stream) {
  CHECK(stream.device().type == DeviceType::kCuda) << "a stream of another device";
  return static_cast<CudaStream&>(stream);
}

void CudaStream::Record(Event& event) {
  Note(cudaEventRecord(static_cast<CudaEvent&>(event).handle(), handle_), "recording an event");
}

void CudaStream::Wait(const Event& event) {
  Note(cudaStreamWaitEvent(handle_, static_cast<const CudaEvent&>(event).handle(), 0),
       "waiting for an event");
}

absl::Status CudaStream::Synchronize() {
  Note(cudaStreamSynchronize(handle_), "running what the stream holds");
  return first_error_;
}

void CudaStream::Copy(const ConstTensorView& from, const TensorView& to) {
  CHECK_EQ(from.shape(), to.shape());
  CHECK(from.dtype() == to.dtype());
  if (from.num_elements() == 0) return;
  if (from.is_contiguous() && to.is_contiguous()) {
    Note(cudaMemcpyAsync(to.raw_mutable_data(), from.raw_data(), from.bytes(), cudaMemcpyDefault,
                         handle_),
         "copying");
    return;
  }
  const size_t element = SizeOf(from.dtype());
  const auto width = static_cast<size_t>(from.shape().elements_per_row()) * element;
  Note(cudaMemcpy2DAsync(to.raw_mutable_data(), static_cast<size_t>(to.row_stride()) * element,
                         from.raw_data(), static_cast<size_t>(from.row_stride()) * element, width,
                         static_cast<size_t>(from.extent(0)), cudaMemcpyDefault, handle_),
       "copying rows");
}

void CudaStream::Note(cudaError_t code, const char* what) { Note(StatusOf(code, what)); }

void CudaStream::Note(const absl::Status& status) {
  if (first_error_.ok()) first_error_ = status;
}

}  // namespace sluice::kernels::cuda
