#include "trainer/model/fp8.h"

#include <string>

namespace sluice::trainer {

std::vector<int32_t> RowTiles(const Parameter& weight) {
  const bool grouped = weight.shape.rank() == 3;
  const int64_t out = weight.shape[grouped ? 1 : 0], in = weight.shape[grouped ? 2 : 1];
  std::vector<int32_t> bounds = {0};
  std::string last_name;
  int64_t last_block = -1, next_row = -1;  // of the row before, and the named row that would follow
  for (const NamedPiece& piece : weight.pieces) {
    if (piece.offset >= out * in) break;  // the next expert is cut alike
    const int64_t first = piece.begin / in, count = piece.count / in;
    for (int64_t row = first; row < first + count; ++row) {
      const int64_t at = piece.offset / in + row - first, block = row / kernels::kQuantTile;
      const bool same = piece.name == last_name && block == last_block && row >= next_row;
      if (at > 0 && !same) bounds.push_back(static_cast<int32_t>(at));
      last_name = piece.name;
      last_block = block;
      next_row = row + 1;
    }
  }
  bounds.push_back(static_cast<int32_t>(out));
  return bounds;
}

int64_t NumFp8Scales(const Parameter& weight) {
  const int rank = weight.shape.rank();
  const int64_t experts = rank == 3 ? weight.shape[0] : 1;
  return experts * (static_cast<int64_t>(RowTiles(weight).size()) - 1) *
         kernels::NumTiles(weight.shape[rank - 1]);
}

}  // namespace sluice::trainer
