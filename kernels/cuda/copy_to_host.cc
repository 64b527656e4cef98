#include "kernels/cuda/copy_to_host.h"

#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_stream.h"

namespace sluice::kernels::cuda {

// A copy to the host would wait too, but nobody watches that wait (watched_stream.h).
absl::Status CopyToHost(Stream& stream, const ConstTensorView& from, void* to) {
  RETURN_IF_ERROR(stream.Synchronize());
  CudaStream::From(stream).Copy(from, TensorView(to, from.dtype(), from.shape()));
  return stream.Synchronize();
}

}  // namespace sluice::kernels::cuda
