// fp8_matmul on the CPU: codes are decoded to BF16 (exactly) or floats, a panel
// of columns and a few rows at a time, and multiplied by the same loops as
// BF16.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/fp8_matmul.h"

namespace sluice::kernels::cpu {

// c[rows, columns] (+)= a b. Both codes are row-major; K is cut at k_bounds, or
// every 128.
struct Fp8Block {
  const uint8_t* a = nullptr;  // [rows, k], or [k, rows] with a_transposed
  int64_t a_stride = 0;
  bool a_transposed = false;
  const float* a_scales = nullptr;  // of (row, tile) at row * a_row_step + tile * a_tile_step
  int64_t a_row_step = 0, a_tile_step = 0;
  const uint8_t* b = nullptr;  // [k, columns]
  int64_t b_stride = 0;
  // Of (tile, column) at tile * b_tile_step + the column's tile, or the column
  // itself.
  const float* b_scales = nullptr;
  int64_t b_tile_step = 0;
  bool scale_per_column = false;
  const int32_t* b_bounds = nullptr;  // tiles of the columns; null: every 128
  int64_t first_column = 0;           // of this block in b and c: which tiles its columns lie in
  const int32_t* k_bounds = nullptr;
  int64_t num_k_tiles = 0;
  void* c = nullptr;
  int64_t c_stride = 0;
  MatmulOutput output = MatmulOutput::kStoreF32;
  int64_t rows = 0, columns = 0, k = 0;
};

struct Fp8MatmulTable {
  int tile_rows = 0;
  int64_t (*scratch_words)(const Fp8Block& block) = nullptr;
  void (*multiply)(const Fp8Block& block, uint32_t* scratch) = nullptr;
};
Fp8MatmulTable Fp8MatmulTableOf(Target target);

void Fp8Matmul(ThreadPool& pool, const Fp8MatmulArgs& args);
void Fp8WeightGradient(ThreadPool& pool, const Fp8WeightGradientArgs& args);

}  // namespace sluice::kernels::cpu
