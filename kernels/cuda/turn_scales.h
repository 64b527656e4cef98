// Scales as libraries of others read them.
#pragma once

#include <cstdint>

#include "kernels/core/stream.h"

namespace sluice::kernels::cuda {

// to[c, r] = from[r, c] on the device, FP32. Strides in elements.
struct TurnScalesArgs {
  const float* from = nullptr;  // [rows, columns]
  float* to = nullptr;          // [columns, rows], no gap
  int64_t rows = 0, columns = 0;
  int64_t from_row = 0, from_column = 1;  // from one to the next
};
void TurnScales(Stream& stream, const TurnScalesArgs& args);

}  // namespace sluice::kernels::cuda
