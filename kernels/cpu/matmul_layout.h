// How the matrix products see memory, the same on every target.
//
// K is counted in *units* of one 4-byte word: one float, or a pair of BF16 values (the even k in
// the low half, the odd one in the high half; an odd K is padded with 0).
//
// A packed right-hand matrix [K, N] is cut into panels of kPanelColumns columns, the last one
// padded with zeros: word [panel][unit][column].
//
// A sum over K is taken in blocks of kBlockUnits units: inside a block one FP32 accumulator in
// ascending k, then the sums of the blocks in ascending order. Nothing else decides the bits.
#pragma once

#include <cstdint>

#include "kernels/core/dtype.h"

namespace sluice::kernels::cpu {

inline constexpr int64_t kPanelColumns = 32;
inline constexpr int64_t kBlockUnits = 512;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t NumUnits(int64_t k, DType dtype) {
  return dtype == DType::kBF16 ? CeilDiv(k, 2) : k;
}
inline int64_t NumPanels(int64_t n) { return CeilDiv(n, kPanelColumns); }

// Words of one packed matrix [k, n].
inline int64_t PackedWords(int64_t k, int64_t n, DType dtype) {
  return NumPanels(n) * NumUnits(k, dtype) * kPanelColumns;
}

}  // namespace sluice::kernels::cpu
