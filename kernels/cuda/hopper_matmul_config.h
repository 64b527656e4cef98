// How a matrix product on Hopper is cut and started: chosen by a pure function of the shape, so
// that it can be printed and tested where there is no GPU.   M rows, K contracted, N columns, E
// groups
//
// A result does not depend on the choice: each element is summed along K in one order, 128 bytes of
// K at a time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice::kernels::cuda {

enum class MatmulOperands : uint8_t {
  kFp8Blocks,   // E4M3; a scaled per row and 128 of K, b per 128 x 128 block
  kFp8Columns,  // E4M3; a as above, b per row of its own and 128 of K
  kBF16,
  kBF16Columns,  // both with M and N contiguous: a is [K, M], b is [K, N]
};

enum class MatmulGrouping : uint8_t {
  kDense,  // one product
  kRows,   // group e multiplies its own rows of a with b[e]: experts, forward and input gradient
  kContracted,  // group e contracts its own range of K: experts, weight gradient
};

struct HopperMatmulShape {
  MatmulOperands operands = MatmulOperands::kFp8Blocks;
  MatmulGrouping grouping = MatmulGrouping::kDense;
  int64_t m = 0, n = 0, k = 0;  // kRows: m of all groups; kContracted: k of all groups
  int64_t num_groups = 1;
  // kFp8Blocks: K is so many equal parts side by side, each cut every 128 from its own start.
  int64_t k_parts = 1;
};

// Where a matrix lies, as far as copying it by TMA cares.
struct MatrixPlace {
  uint64_t address = 0;
  int64_t row_bytes = 0;  // from row to row
};

struct HopperMatmulConfig {
  int block_m = 0, block_n = 0;  // of a tile of the result
  int block_k = 0;               // elements: 128 bytes
  int num_stages = 0;            // tiles of a and b in flight
  int num_threads = 0;           // a warpgroup that copies, one or two that multiply
  int num_blocks = 0;            // thread blocks: each takes tile after tile
  int64_t shared_bytes = 0;      // dynamic
  int64_t num_waves = 0;         // tiles of the busiest block; kRows: with groups of equal size

  std::string ToString() const;
  friend bool operator==(const HopperMatmulConfig&, const HopperMatmulConfig&) = default;
};

inline constexpr int kHopperSharedBytes =
    232448;  // a block may use at most (compute capability 9.0)
inline constexpr int kMaxStages = 8;

// Bytes of dynamic shared memory that a kernel of this configuration lays out.
int64_t HopperMatmulSharedBytes(MatmulOperands operands, int block_m, int block_n, int num_stages);

// Of K, 128 bytes each, of all groups.
int64_t NumStepsOfK(const HopperMatmulShape& shape);

// INVALID_ARGUMENT for a shape that the copies cannot read: K (or a part of it) of FP8 not a
// multiple of 16, of BF16 not of 8, or an extent beyond 2^31. kBF16Columns: M and N of 8, in place
// of K.
absl::StatusOr<HopperMatmulConfig> ChooseHopperMatmul(const HopperMatmulShape& shape,
                                                      int num_multiprocessors);

// Whether the tensor cores of Hopper (wgmma) can do a product; if not, INVALID_ARGUMENT says why,
// and mma.sync does it. The number of rows of `a` does not enter, so that a row's bits are the same
// in any batch; nor do the values of offsets. Operands start, and their rows follow each other, at
// multiples of 16 bytes, and where K has parts, of a part.
absl::Status CheckHopperMatmul(const HopperMatmulShape& shape, const MatrixPlace& a,
                               const MatrixPlace& b);

}  // namespace sluice::kernels::cuda
