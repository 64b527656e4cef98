// What an import looks for in the values of a tensor. Chunks hold whole elements.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/core/dtype.h"

namespace sluice::checkpoints {

// The first element that is infinite or NaN; -1: none. F32, BF16, E4M3; other types never are.
int64_t FirstNotFinite(kernels::DType dtype, std::span<const char> chunk);

// F32 or BF16 as FP32.
std::vector<float> ToFloats(kernels::DType dtype, std::span<const char> chunk);

// The largest |FP32(code * scale) - code * scale| of elements [begin, ...) of an FP8 weight with
// `columns` columns.
double Fp8Error(std::span<const char> codes, int64_t begin, int64_t columns,
                std::span<const float> scales);

}  // namespace sluice::checkpoints
