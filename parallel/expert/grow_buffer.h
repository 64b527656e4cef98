// A device buffer that only grows. Not for use outside this folder.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/stream.h"

namespace sluice::parallel {

// Makes `buffer` hold at least `bytes`; its contents are lost when it grows. Waits for the stream
// before it frees what enqueued work may use. An eighth more than needed is taken, since row counts
// change a little from step to step.
inline absl::Status GrowTo(kernels::DeviceContext& device, int64_t bytes, kernels::Stream& stream,
                           kernels::Buffer& buffer) {
  if (!buffer.is_empty() && static_cast<int64_t>(buffer.size()) >= bytes) return absl::OkStatus();
  RETURN_IF_ERROR(stream.Synchronize());
  buffer = kernels::Buffer();  // first, so that both are never held
  const size_t wanted = static_cast<size_t>(bytes + bytes / 8 + 64);
  ASSIGN_OR_RETURN(buffer, device.Allocate(wanted, kernels::MemoryTag::kCommunication));
  return absl::OkStatus();
}

}  // namespace sluice::parallel
