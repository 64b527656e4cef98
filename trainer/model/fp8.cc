#include "trainer/model/fp8.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "checkpoints/huggingface/name_map.h"
#include "kernels/core/check.h"

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

int64_t EqualParts(const std::vector<int32_t>& bounds) {
  // A part ends with the first block that does not end at a multiple of 128.
  const int64_t out = bounds.back();
  int64_t height = out;
  for (const int32_t bound : bounds) {
    if (bound % kernels::kQuantTile == 0) continue;
    height = bound;
    break;
  }
  std::vector<int32_t> wanted = {0};
  for (int64_t begin = 0; begin < out; begin += height) {
    for (int64_t at = kernels::kQuantTile; at < height; at += kernels::kQuantTile) {
      wanted.push_back(static_cast<int32_t>(begin + at));
    }
    wanted.push_back(static_cast<int32_t>(begin + height));
  }
  return wanted == bounds ? out / height : 0;
}

void KeepQuantized(Parameter& weight, ParameterStore& store) {
  const int rank = weight.shape.rank();
  const int64_t experts = rank == 3 ? weight.shape[0] : 1;
  const int64_t out = weight.shape[rank - 2], in = weight.shape[rank - 1];
  const int64_t across = kernels::NumTiles(in);
  const std::vector<int32_t> bounds = RowTiles(weight);
  const int64_t row_tiles = static_cast<int64_t>(bounds.size()) - 1;
  Parameter scales;
  scales.shape = {experts, row_tiles, across};
  std::set<std::pair<std::string, int64_t>> seen;  // scale tensors and their rows
  auto piece = weight.pieces.begin();
  for (int64_t i = 0; i < experts * row_tiles; ++i) {
    // The weight row that the tile begins with, and where it lies in its named tensor.
    const int64_t row = i / row_tiles * out + bounds[i % row_tiles];
    while (row * in >= piece->offset + piece->count) ++piece;
    const int64_t block = (piece->begin / in + row - piece->offset / in) / kernels::kQuantTile;
    NamedPiece scale;
    scale.name = checkpoints::ScaleName(piece->name);
    scale.shape = {kernels::NumTiles(piece->shape[0]), across};
    scale.begin = block * across;
    scale.offset = i * across;
    scale.count = across;
    scale.copy = !seen.insert({scale.name, block}).second;
    scales.pieces.push_back(std::move(scale));
  }
  store.KeepQuantized(weight, std::move(scales));
}

int64_t NumFp8Scales(const Parameter& weight) {
  const int rank = weight.shape.rank();
  const int64_t experts = rank == 3 ? weight.shape[0] : 1;
  return experts * (static_cast<int64_t>(RowTiles(weight).size()) - 1) *
         kernels::NumTiles(weight.shape[rank - 1]);
}

}  // namespace sluice::trainer
