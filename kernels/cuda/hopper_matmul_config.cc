#include "kernels/cuda/hopper_matmul_config.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/rounding.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kRowBytes = 128;  // of K in a stage: the width of the swizzle

bool IsFp8(MatmulOperands operands) {
  return operands == MatmulOperands::kFp8Blocks || operands == MatmulOperands::kFp8Columns;
}

int64_t NumTiles(const HopperMatmulShape& shape, int block_m, int block_n) {
  const int64_t columns = CeilDiv(shape.n, block_n);
  const int64_t groups = std::max<int64_t>(shape.num_groups, 1);
  switch (shape.grouping) {
    case MatmulGrouping::kDense:
      return CeilDiv(shape.m, block_m) * columns;
    case MatmulGrouping::kRows:
      return groups * CeilDiv(CeilDiv(shape.m, groups), block_m) * columns;
    case MatmulGrouping::kContracted:
      return groups * CeilDiv(shape.m, block_m) * columns;
  }
  CHECK(false);
  return 0;
}

// What a tile takes of a multiprocessor: clocks for each step along K, and clocks besides (mostly
// to write it). Fitted to the eight products of DeepSeek-V3 at 4096 tokens (docs/kernels.md),
// measured in every configuration on one H100 SXM, with a clock of 1.7 GHz; 15% off at most where
// tiles are 128 rows high and at least 128 columns wide.
struct TileClocks {
  int block_m = 0, block_n = 0;
  int64_t step = 0, besides = 0;
};
constexpr TileClocks kFp8Tiles[] = {
    {128, 256, 1215, 4300}, {128, 192, 960, 3200}, {128, 128, 790, 2050}, {128, 64, 690, 400},
    {64, 256, 850, 3870},   {64, 192, 710, 2340},  {64, 128, 540, 1710},  {64, 64, 410, 760}};
constexpr TileClocks kBF16Tiles[] = {
    {128, 256, 1080, 3340}, {128, 192, 815, 2740}, {128, 128, 595, 1770}, {128, 64, 610, 0},
    {64, 256, 605, 2560},   {64, 192, 530, 1460},  {64, 128, 470, 180},   {64, 64, 345, 0}};

// Of one group, if groups have equal shares.
int64_t StepsOf(const HopperMatmulShape& shape, int block_k) {
  const int64_t groups =
      shape.grouping == MatmulGrouping::kContracted ? std::max<int64_t>(shape.num_groups, 1) : 1;
  if (shape.k_parts > 1) return NumStepsOfK(shape);
  return std::max<int64_t>(CeilDiv(CeilDiv(shape.k, groups), block_k), 1);
}

absl::Status CheckShape(const HopperMatmulShape& shape) {
  const int64_t unit = IsFp8(shape.operands) ? 16 : 8;
  const auto check = [&](const char* name, int64_t extent) {
    if (extent % unit == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("matmul: found ", name, " = ", extent,
                                                   ", wanted a multiple of ", unit, " for ",
                                                   IsFp8(shape.operands) ? "FP8" : "BF16"));
  };
  if (shape.operands == MatmulOperands::kBF16Columns) {
    RETURN_IF_ERROR(check("M", shape.m));
    RETURN_IF_ERROR(check("N", shape.n));
  } else {
    RETURN_IF_ERROR(check("K", shape.k));
    if (shape.k_parts > 1) {
      CHECK(shape.operands == MatmulOperands::kFp8Blocks && shape.k % shape.k_parts == 0);
      RETURN_IF_ERROR(check("a part of K", shape.k / shape.k_parts));
    }
  }
  if (shape.operands == MatmulOperands::kFp8Columns && (shape.m % 4 != 0 || shape.n % 4 != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("matmul: found M x N = ", shape.m, " x ", shape.n,
                     ", wanted multiples of 4, as their scales are copied in rows"));
  }
  constexpr int64_t kMost = int64_t{1} << 31;
  const int64_t b_rows =
      shape.grouping == MatmulGrouping::kRows ? shape.n * shape.num_groups : shape.n;
  const int64_t most = std::max({shape.m, b_rows, shape.k});
  if (most >= kMost) {
    return absl::InvalidArgumentError(
        absl::StrCat("matmul: found an extent of ", most, ", wanted less than 2^31"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string HopperMatmulConfig::ToString() const {
  return absl::StrCat(block_m, "x", block_n, "x", block_k, " stages ", num_stages, " threads ",
                      num_threads, " blocks ", num_blocks, " waves ", num_waves, " shared ",
                      shared_bytes);
}

int64_t HopperMatmulSharedBytes(MatmulOperands operands, int block_m, int block_n, int num_stages) {
  constexpr int64_t kAlignment = 1024;  // of the swizzle; the base may need that much to reach it
  constexpr int64_t kBarriers = 1024, kStaging = 2048;  // of a multiplying warp's results
  int64_t stage = int64_t{kRowBytes} * (block_m + block_n);
  if (operands == MatmulOperands::kFp8Columns) stage += 4 * (block_m + block_n);
  return kAlignment + kBarriers + block_m / 16 * kStaging + RoundUp(stage, kAlignment) * num_stages;
}

int64_t NumStepsOfK(const HopperMatmulShape& shape) {
  const int64_t step = IsFp8(shape.operands) ? kRowBytes : kRowBytes / 2;
  return shape.k_parts * CeilDiv(shape.k / shape.k_parts, step);
}

absl::StatusOr<HopperMatmulConfig> ChooseHopperMatmul(const HopperMatmulShape& shape,
                                                      int num_multiprocessors) {
  if (absl::Status status = CheckShape(shape); !status.ok()) return status;
  const bool is_fp8 = IsFp8(shape.operands);
  HopperMatmulConfig best;
  best.block_k = is_fp8 ? kRowBytes : kRowBytes / 2;
  int64_t best_clocks = 0;
  // The larger tile where the time is equal: it reads less.
  for (const TileClocks& tile : is_fp8 ? kFp8Tiles : kBF16Tiles) {
    const int64_t tiles = NumTiles(shape, tile.block_m, tile.block_n);
    const int64_t waves = CeilDiv(tiles, num_multiprocessors);
    const int64_t clocks = waves * (StepsOf(shape, best.block_k) * tile.step + tile.besides);
    if (best.block_m != 0 && clocks >= best_clocks) continue;
    best_clocks = clocks;
    best.block_m = tile.block_m;
    best.block_n = tile.block_n;
    best.num_waves = waves;
    best.num_blocks = static_cast<int>(std::min<int64_t>(tiles, num_multiprocessors));
  }
  best.num_threads = 128 + 128 * (best.block_m / 64);
  const int64_t steps = std::max<int64_t>(NumStepsOfK(shape), 1);
  best.num_stages = static_cast<int>(std::clamp<int64_t>(steps, 2, kMaxStages));
  while (HopperMatmulSharedBytes(shape.operands, best.block_m, best.block_n, best.num_stages) >
         kHopperSharedBytes) {
    --best.num_stages;
  }
  best.shared_bytes =
      HopperMatmulSharedBytes(shape.operands, best.block_m, best.block_n, best.num_stages);
  return best;
}

absl::Status CheckHopperMatmul(const HopperMatmulShape& shape, const MatrixPlace& a,
                               const MatrixPlace& b) {
  if (shape.n == 0 || shape.k == 0) return absl::InvalidArgumentError("matmul: nothing to copy");
  RETURN_IF_ERROR(CheckShape(shape));
  const int64_t part_bytes = shape.k_parts > 1 ? shape.k / shape.k_parts : 1;  // of FP8
  const auto check = [&](const char* name, const MatrixPlace& place) {
    if (place.address % 16 != 0) {
      return absl::InvalidArgumentError(absl::StrCat("matmul: found ", name, " at an address ",
                                                     place.address % 16,
                                                     " above a multiple of 16, wanted at one"));
    }
    const int64_t unit = place.row_bytes % 16 != 0 ? 16 : part_bytes;
    if (place.row_bytes % unit == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("matmul: found rows of ", name, " ",
                                                   place.row_bytes,
                                                   " bytes apart, wanted a multiple of ", unit));
  };
  RETURN_IF_ERROR(check("a", a));
  return check("b", b);
}

}  // namespace sluice::kernels::cuda
