// E4M3 with one scale per tile (DeepSeek-V3 report section 3.3.2). docs/fp8.md has the rules to the
// bit: every backend writes the same bytes for the same input.
//   R rows (tokens), C columns, B = number of column tiles, E experts, O out, I in
//   tile      1 x 128 of a row | 128 x 1 of a column | 128 x 128 of a weight
//   value     code * scale; a scale is an FP32 number, also where it is a power of two
//
// Column tiles are every 128 columns from 0, the last one shorter, unless `tiles` says otherwise:
// several tensors that lie side by side (gate and up projection) are cut each from its own start,
// so that no tile straddles two of them.
#pragma once

#include <cstdint>

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

inline constexpr int64_t kQuantTile = 128;
inline int64_t NumTiles(int64_t extent) { return (extent + kQuantTile - 1) / kQuantTile; }

// Rows of scales of a QuantizedColumns of `rows` rows in `groups` groups; group g's tiles start at
// scale row offsets[g] / 128 + g.
inline int64_t NumColumnTiles(int64_t rows, int64_t groups) { return rows / kQuantTile + groups; }
// Rows that the codes have when they are transposed: tile t of the scales begins at 128 t.
inline int64_t NumColumnCodes(int64_t rows, int64_t groups) {
  return kQuantTile * (groups == 1 ? NumTiles(rows) : NumColumnTiles(rows, groups));
}

enum class ScaleFormat : uint8_t { kF32, kPowerOfTwo };  // kPowerOfTwo: UE8M0, rounded up

struct QuantizeOptions {
  ScaleFormat format = ScaleFormat::kF32;
  float amax_floor = 0;  // 0 in training; released inference code has 1e-4
  // One scale for 128 rows x 1 tile in place of one a row (or column): the paper's negative control
  // for activation gradients, section B.2. Codes of rows and of columns are then the same.
  bool square_blocks = false;
};

// 1 x 128 tiles along a row: the operand of y = x W^T and dx = dy W.
struct QuantizedRows {
  TensorView codes;   // [R, C] e4m3; rows may be strided
  TensorView scales;  // [R, B] f32; rows may be strided
  bool is_null() const { return scales.shape().rank() == 0; }
};

// 128 x 1 tiles along the rows: the operands of dW = dy^T x. Tiles start at the first row of each
// group.
struct QuantizedColumns {
  TensorView
      codes;  // [R, C] e4m3, or with transposed [C, NumColumnCodes(R, G)]; rows may be strided
  TensorView scales;  // [NumColumnTiles(R, G), C] f32; rows that belong to no tile stay unset
  // CUDA: along R the codes are then contiguous, and a tile is followed by codes of 0 up to 128, so
  // that each begins at a multiple of 128. What belongs to no tile stays unset.
  bool transposed = false;
  bool is_null() const { return scales.shape().rank() == 0; }
};

// Either result or both, in one pass over x.
struct QuantizeArgs {
  ConstTensorView x;         // [R, C] f32 | bf16; rows may be strided
  QuantizedRows rows;        // or null
  QuantizedColumns columns;  // or null
  ConstTensorView tiles =
      {};  // [B + 1] i32, 0 = first < ... < last = C, at most 128 apart; or null
  ConstTensorView offsets = {};  // [G + 1] i32 from 0 to R, groups of rows for `columns`; null: one
  QuantizeOptions options;
};
void Quantize(Stream& stream, const QuantizeArgs& args);

// columns = the tiles along the rows of the values of `rows`. `rows` is only read.
struct RequantizeColumnsArgs {
  QuantizedRows rows;
  ConstTensorView tiles = {};    // of rows; as above
  ConstTensorView offsets = {};  // as above
  QuantizedColumns columns;
  QuantizeOptions options;
};
void RequantizeColumns(Stream& stream, const RequantizeColumnsArgs& args);

// y = codes * scales, rounded once to the dtype of y.
struct DequantizeRowsArgs {
  QuantizedRows rows;
  ConstTensorView tiles = {};  // as above
  TensorView y;                // [R, C] f32 | bf16
};
void DequantizeRows(Stream& stream, const DequantizeRowsArgs& args);

// A weight in blocks, and its transpose: the same codes and scales, so that either direction of a
// linear layer finds the layout that its kernel reads. Null `transposed`: not wanted.
struct QuantizedWeight {
  TensorView codes;              // [E, O, I] e4m3
  TensorView scales;             // [E, BO, BI] f32, BI = NumTiles(I)
  TensorView transposed_codes;   // [E, I, O] e4m3
  TensorView transposed_scales;  // [E, BI, BO] f32
  ConstTensorView row_tiles;     // [BO + 1] i32 as `tiles` above, of the O rows; null: every 128
  // What row_tiles say, for the host: the O rows are so many equal parts, each cut every 128 from
  // its own first row (gate and up). 0: cut otherwise, or row_tiles is null.
  int64_t equal_parts = 0;
};

struct QuantizeWeightArgs {
  ConstTensorView w;  // [E, O, I] f32 | bf16
  QuantizedWeight weight;
  QuantizeOptions options;  // square_blocks has no meaning here
};
void QuantizeWeight(Stream& stream, const QuantizeWeightArgs& args);

struct DequantizeWeightArgs {
  QuantizedWeight weight;  // transposed_* are not read
  TensorView w;            // [E, O, I] f32 | bf16
};
void DequantizeWeight(Stream& stream, const DequantizeWeightArgs& args);

// The row that dispatch sends: C codes, then one byte a tile, the biased exponent of its scale
// (UE8M0), then zeros to a multiple of 16. 7168 columns are 7232 bytes.
inline int64_t WireRowBytes(int64_t columns) {
  return (columns + NumTiles(columns) + 15) / 16 * 16;
}
struct WireRowsArgs {
  QuantizedRows rows;  // scales are powers of two in [2^-126, 2^127]; tiles are every 128
  TensorView wire;     // [R, WireRowBytes(C)] u8
};
void PackWireRows(Stream& stream, const WireRowsArgs& args);    // reads rows, writes wire
void UnpackWireRows(Stream& stream, const WireRowsArgs& args);  // the inverse

// Counts over a tensor and its codes, added to what is there: health of a layer in FP8.
struct QuantizationStats {
  double amax = 0;         // largest magnitude, NaN aside
  int64_t count = 0;       // elements
  int64_t underflows = 0;  // not zero, but code 0
  int64_t clipped = 0;     // |x / scale| at least 464, which saturation moved, or not a number
};
struct QuantizationStatsArgs {
  ConstTensorView x;  // [R, C] f32 | bf16: what was quantised into rows
  QuantizedRows rows;
  ConstTensorView tiles = {};          // as above
  QuantizationStats* stats = nullptr;  // host; valid when the stream got there
};
// Computed by the host: on another device it waits for the stream and copies.
void AddQuantizationStats(Stream& stream, const QuantizationStatsArgs& args);

// The same of a weight.
struct WeightStatsArgs {
  ConstTensorView w;       // [E, O, I] f32 | bf16: what was quantised
  QuantizedWeight weight;  // transposed_* are not read
  QuantizationStats* stats = nullptr;
};
void AddWeightStats(Stream& stream, const WeightStatsArgs& args);

}  // namespace sluice::kernels
