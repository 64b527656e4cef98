// The inner loops of the matrix products, one set per target. Layouts: matmul_layout.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/cpu/target.h"

namespace sluice::kernels::cpu {

// A right-hand matrix [k, n] to be packed.
struct PackSource {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride = 0;       // elements between rows as stored
  bool transposed = false;  // stored [n, k]
  int64_t k = 0, n = 0;
  DType packed_dtype = DType::kF32;
};

// A part of it: units x panels.
struct PackPart {
  int64_t unit_begin = 0, unit_end = 0, panel_begin = 0, panel_end = 0;
};

enum class MatmulOutput : uint8_t { kStoreF32, kAddF32, kStoreBF16 };

// c[rows, columns] from a[rows, k] and packed panels.
struct MatmulBlock {
  const void* a = nullptr;  // element (0, 0)
  int64_t a_stride = 0;
  bool a_transposed = false;  // stored [k, rows]
  bool a_is_packed = false;   // by the multiplication before this one, in the same scratch
  DType dtype = DType::kF32;  // of a and b
  const uint32_t* b = nullptr;
  void* c = nullptr;
  int64_t c_stride = 0;
  MatmulOutput output = MatmulOutput::kStoreF32;
  int64_t rows = 0, columns = 0, k = 0;
};

struct MatmulTable {
  int tile_rows = 0;  // rows that share one pass over a panel
  void (*pack)(const PackSource& source, const PackPart& part, uint32_t* packed) = nullptr;
  // Words of scratch for packing the rows of `a`.
  int64_t (*scratch_words)(int64_t rows, int64_t k, DType dtype) = nullptr;
  void (*multiply)(const MatmulBlock& block, uint32_t* scratch) = nullptr;
};

MatmulTable MatmulTableOf(Target target);

}  // namespace sluice::kernels::cpu
