// A CPU stream on which nothing runs, for a caller who only wants to know what memory a step takes:
// as a stream_mode of DeviceOptions, beside the two that compute. What is enqueued is dropped.
#pragma once

#include "kernels/core/cpu_stream.h"

namespace sluice::kernels {

inline constexpr CpuStreamMode kSkippedStream{2};

}  // namespace sluice::kernels
