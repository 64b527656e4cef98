// Rows in E5M6 (kernels/core/e5m6.h) with a power-of-two scale for each 1 x 128 tile: 1.5 bytes an
// element in place of BF16's 2, for tensors that wait for their backward.   R rows, C columns
//
// A packed row: pairs of codes a, b as three bytes [a & 255, a >> 8 | (b & 15) << 4, b >> 4], then
// a byte a tile, the biased exponent of its scale (UE8M0), then zeros to a multiple of 16.
//   scale = 2^ceil(log2(amax / 65024)), at least 2^-126, 1 for amax 0; code = E5M6(x / scale)
// Infinity makes the scale infinite (byte 255) and the whole tile NaN; a NaN counts for no amax.
// Above (2 - 2^-6) 2^127 a number may come back as infinity.
// Equal bytes on every backend.
#pragma once

#include <cstdint>

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

inline constexpr int64_t kE5m6Tile = 128;

inline int64_t E5m6RowBytes(int64_t columns) {
  return (columns / 2 * 3 + (columns + kE5m6Tile - 1) / kE5m6Tile + 15) / 16 * 16;
}

struct E5m6RowsArgs {
  TensorView x;       // [R, C] f32 | bf16, C even; rows may be strided
  TensorView packed;  // [R, E5m6RowBytes(C)] u8
};
void PackE5m6Rows(Stream& stream, const E5m6RowsArgs& args);    // reads x, writes packed
void UnpackE5m6Rows(Stream& stream, const E5m6RowsArgs& args);  // the inverse, rounded to x's dtype

}  // namespace sluice::kernels
