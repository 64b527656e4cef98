// What training in FP8 needs to know below the configuration; docs/fp8.md has the rules.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops/block_quantize.h"
#include "trainer/model/parameters.h"

namespace sluice::trainer {

struct Fp8Options {
  kernels::QuantizeOptions activations;  // x and weights
  kernels::QuantizeOptions gradients;    // dy
  bool swiglu_cache = false;             // keep gate and up in FP8 between forward and backward
  bool e5m6_attention = false;           // keep the input of o_proj in E5M6 likewise
};

// Where the rows of a weight [O, I] or [E, O, I] are cut into blocks: every 128 rows of each named
// tensor, counted from its own first row, so that no block straddles two. Ascending, from 0 to O.
std::vector<int32_t> RowTiles(const Parameter& weight);
// The number of equal parts of such bounds, each cut every 128 from its own start; 0: they are
// none.
int64_t EqualParts(const std::vector<int32_t>& bounds);
// Before the store's Allocate: the frozen `weight`, a matrix or a stack of them, stays as an FP8
// checkpoint has it. Its scales [E, BO, BI] are those of the named tensors' blocks; a block that
// our order of rows tears apart is there once for each part.
void KeepQuantized(Parameter& weight, ParameterStore& store);
// Scales of the weight in one direction.
int64_t NumFp8Scales(const Parameter& weight);

}  // namespace sluice::trainer
