// What the arithmetic units can do: multiply-adds on registers only.
#pragma once

#include <cstdint>

#include "kernels/core/dtype.h"

namespace sluice::kernels::cpu {

// Runs multiply-adds of `dtype` on the calling thread with the widest instructions of the machine
// (BF16 without a dot instruction: those of f32) and returns how many floating-point operations
// they were.
int64_t RunPeakLoop(DType dtype, int64_t iterations);

}  // namespace sluice::kernels::cpu
