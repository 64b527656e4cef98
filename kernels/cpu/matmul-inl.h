// The loops of the matrix products for one target: packing, then tiles, then a block of tiles.
#include "kernels/cpu/matmul_pack-inl.h"
#include "kernels/cpu/matmul_tile-inl.h"

namespace sluice::kernels::cpu::SLUICE_TARGET {

inline int64_t ScratchWords(int64_t rows, int64_t k, DType dtype) {
  return CeilDiv(rows, kTileRows) * TileWords(NumUnits(k, dtype)) + kTileSlack;
}

// Rows are cut into tiles of nearly equal height, so that no tile is too low to hide the latency of
// the multiply-adds. Packed tiles stay in the second-level cache while the panels pass by.
template <Operand kOperand, bool kTransposed>
inline void MultiplyBlock(const MatmulBlock& block, uint32_t* scratch) {
  const int64_t units = NumUnits(block.k, block.dtype);
  const int64_t tile_words = TileWords(units);
  const int64_t num_tiles = CeilDiv(block.rows, kTileRows);
  if (kTransposed && !block.a_is_packed) PackAllColumns<kOperand>(block, num_tiles, scratch);
  TileArgs args;
  args.units = units;
  args.c_stride = block.c_stride;
  args.output = block.output;
  for (int64_t column = 0; column < block.columns; column += kTileColumns) {
    const int64_t left = block.columns - column;
    args.columns = static_cast<int>(left < kTileColumns ? left : kTileColumns);
    args.b = block.b + column / kPanelColumns * units * kPanelColumns + column % kPanelColumns;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const int64_t begin = TileBegin(block, tile, num_tiles);
      const int rows = static_cast<int>(TileBegin(block, tile + 1, num_tiles) - begin);
      uint32_t* a = scratch + tile * tile_words;
      const bool packs = !kTransposed && !block.a_is_packed && column == 0;
      if (packs) PackTileRows<kOperand>(block, begin, rows, a);
      args.ahead = nullptr;
      if (packs && tile + 1 < num_tiles) {
        args.ahead = RowAt<kOperand>(block, begin + rows);
        args.ahead_stride = RowAt<kOperand>(block, begin + 1) - RowAt<kOperand>(block, begin);
      }
      args.a = a;
      args.c = OutputAt(block, begin, column);
      RunTile<kOperand, kTransposed>(args, rows);
    }
  }
}

inline void Multiply(const MatmulBlock& block, uint32_t* scratch) {
  if (block.dtype == DType::kBF16) {
    if (block.a_transposed) {
      MultiplyBlock<Operand::kBF16, true>(block, scratch);
    } else {
      MultiplyBlock<Operand::kBF16, false>(block, scratch);
    }
  } else if (block.a_transposed) {
    MultiplyBlock<Operand::kF32, true>(block, scratch);
  } else {
    MultiplyBlock<Operand::kF32, false>(block, scratch);
  }
}

inline constexpr MatmulTable kMatmulTable = {.tile_rows = kTileRows,
                                             .pack = PackPanels,
                                             .scratch_words = ScratchWords,
                                             .multiply = Multiply};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
