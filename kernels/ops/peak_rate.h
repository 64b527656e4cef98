// How fast the device can multiply: the yardstick of every share that is printed.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/core/stream.h"

namespace sluice::kernels {

// Floating-point operations a second of all the device's threads together, multiply-adds of `dtype`
// (f32 | bf16) on registers only, measured for about `seconds`. Waits for the stream. Ranks that
// share a machine measure at the same time, as they will work.
absl::StatusOr<double> MeasurePeakRate(Stream& stream, DType dtype, double seconds);

}  // namespace sluice::kernels
