// What attention by wgmma has in common, forward and backward: how heads are copied, and the widths
// that there are kernels for.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/tensor_map.h"

namespace sluice::kernels::cuda {

// Of a box: a row of it is the swizzle's width.
inline constexpr int kBoxColumns = 64, kLineBytes = 128;

// All heads of all tokens, as rows of a matrix, for boxes of so many tokens.
inline absl::StatusOr<CUtensorMap> MapOf(const Heads<const bfloat16>& heads, int64_t tokens,
                                         int64_t count, int box_tokens) {
  return MakeTensorMap({.data = heads.data,
                        .type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                        .rows = tokens,
                        .columns = count * heads.width,
                        .stride = heads.stride,
                        .box_rows = box_tokens,
                        .box_columns = kBoxColumns,
                        .is_swizzled = true});
}

// run(width of queries and keys, width of values) with both as types; false for other widths.
template <typename Run>
bool ForHopperWidths(int64_t width, int64_t value_width, const Run& run) {
  const auto is = [&](auto of_queries, auto of_values) {
    if (width != of_queries || value_width != of_values) return false;
    run(of_queries, of_values);
    return true;
  };
  using Narrow = std::integral_constant<int, 64>;
  using Middle = std::integral_constant<int, 128>;
  using Wide = std::integral_constant<int, 192>;
  return is(Wide(), Middle()) || is(Middle(), Middle()) || is(Narrow(), Narrow());
}

}  // namespace sluice::kernels::cuda
