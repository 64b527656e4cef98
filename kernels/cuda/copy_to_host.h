// For the ops that are written for the host alone.
#pragma once

#include "absl/status/status.h"
#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels::cuda {

// Waits for what the stream holds, then copies: `to` has room for the elements of `from`, one row
// after the other. The stream's error, which it keeps, where it has failed; `to` is then undefined.
absl::Status CopyToHost(Stream& stream, const ConstTensorView& from, void* to);

}  // namespace sluice::kernels::cuda
