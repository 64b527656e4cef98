// DeepSeek's FP8 weights: E4M3 codes with one FP32 scale for each block of 128 x 128, ragged at the
// right and lower edge; value = code * scale, although the tensor is called weight_scale_inv
// (deepseek-ai/DeepSeek-V3, README_WEIGHTS.md).   R rows, C columns, Br, Bc: blocks down and across
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::checkpoints {

inline constexpr int64_t kFp8Block = 128;

inline int64_t NumBlocks(int64_t extent) { return (extent + kFp8Block - 1) / kFp8Block; }

// out[i] = value of element begin + i of the row-major [R, C] weight, rounded to FP32 once; codes
// holds those elements, scales all of [Br, Bc]. Any thread.
void DecodeFp8(std::span<const uint8_t> codes, int64_t begin, int64_t columns,
               std::span<const float> scales, float* out);

// scales[Bc] of a band of at most 128 whole rows: largest magnitude / 448, or 1 for a block of
// zeros (DeepSeek-V3 report section 3.3.2). All values finite.
void ScalesOfBand(std::span<const float> values, int64_t columns, float* scales);

// codes of a band of at most 128 whole rows: value / scale rounded to nearest, ties to even.
void EncodeBand(std::span<const float> values, int64_t columns, const float* scales,
                uint8_t* codes);

}  // namespace sluice::checkpoints
