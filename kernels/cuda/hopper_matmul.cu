#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/hopper_matmul.cuh"
#include "kernels/cuda/hopper_matmul.h"
#include "kernels/cuda/rounding.h"
#include "kernels/cuda/tensor_map.h"

namespace sluice::kernels::cuda {
namespace {

struct TensorMaps {
  CUtensorMap a = {}, b = {}, a_scales = {}, b_scales = {};
};

int64_t NumBGroups(const HopperMatmulShape& shape) {
  return shape.grouping == MatmulGrouping::kRows ? std::max<int64_t>(shape.num_groups, 1) : 1;
}
int64_t BGroupRows(const HopperMatmulArgs& args) {
  return args.b_group_rows == 0 ? args.shape.n : args.b_group_rows;
}

// Scales [steps, values], copied `box` of a step at a time.
absl::StatusOr<CUtensorMap> MapOfScales(const float* scales, int64_t steps, int64_t values,
                                        int box) {
  return MakeTensorMap({.data = scales,
                        .type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                        .rows = steps,
                        .columns = values,
                        .parts = 0,
                        .stride = values,
                        .box_rows = 1,
                        .box_columns = box});
}

absl::StatusOr<TensorMaps> MakeMaps(const HopperMatmulArgs& args,
                                    const HopperMatmulConfig& config) {
  const HopperMatmulShape& shape = args.shape;
  const bool is_transposed = shape.operands == MatmulOperands::kBF16Columns;
  const bool is_bf16 = is_transposed || shape.operands == MatmulOperands::kBF16;
  const auto map_of = [&](const void* data, int64_t rows, int64_t stride, int box_rows) {
    const int64_t columns = is_transposed ? rows : shape.k;
    return MakeTensorMap(
        {.data = data,
         .type = is_bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8,
         .rows = is_transposed ? shape.k : rows,
         .columns = columns,
         .parts = shape.operands == MatmulOperands::kFp8Blocks ? shape.k_parts : 0,
         .stride = stride == 0 ? columns : stride,
         .box_rows = is_transposed ? config.block_k : box_rows,
         .box_columns = config.block_k,
         .is_swizzled = true});
  };
  const int64_t b_rows = (NumBGroups(shape) - 1) * BGroupRows(args) + shape.n;
  const int64_t steps = NumStepsOfK(shape);
  TensorMaps maps;
  ASSIGN_OR_RETURN(maps.a, map_of(args.a, shape.m, args.a_stride, config.block_m));
  ASSIGN_OR_RETURN(maps.b, map_of(args.b, b_rows, args.b_stride, config.block_n));
  if (shape.operands == MatmulOperands::kFp8Columns) {
    ASSIGN_OR_RETURN(maps.a_scales, MapOfScales(args.a_scales, steps, shape.m, config.block_m));
    ASSIGN_OR_RETURN(maps.b_scales, MapOfScales(args.b_scales, steps, shape.n, config.block_n));
  }
  return maps;
}

template <MatmulOperands kOperands, int kBlockM, int kBlockN>
cudaError_t LaunchTiles(cudaStream_t stream, const HopperMatmulConfig& config,
                        const TensorMaps& maps, const HopperMatmulParameters& parameters) {
  const auto kernel = hopper_matmul_kernel<kOperands, kBlockM, kBlockN>;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(config.shared_bytes));
  if (error != cudaSuccess) return error;
  kernel<<<config.num_blocks, config.num_threads, config.shared_bytes, stream>>>(
      maps.a, maps.b, maps.a_scales, maps.b_scales, parameters);
  return cudaGetLastError();
}

template <MatmulOperands kOperands>
cudaError_t Launch(cudaStream_t stream, const HopperMatmulConfig& config, const TensorMaps& maps,
                   const HopperMatmulParameters& p) {
  const bool is_low = config.block_m == 64;
  switch (config.block_n) {
    case 64:
      return is_low ? LaunchTiles<kOperands, 64, 64>(stream, config, maps, p)
                    : LaunchTiles<kOperands, 128, 64>(stream, config, maps, p);
    case 128:
      return is_low ? LaunchTiles<kOperands, 64, 128>(stream, config, maps, p)
                    : LaunchTiles<kOperands, 128, 128>(stream, config, maps, p);
    case 192:
      return is_low ? LaunchTiles<kOperands, 64, 192>(stream, config, maps, p)
                    : LaunchTiles<kOperands, 128, 192>(stream, config, maps, p);
    case 256:
      return is_low ? LaunchTiles<kOperands, 64, 256>(stream, config, maps, p)
                    : LaunchTiles<kOperands, 128, 256>(stream, config, maps, p);
    default:
      CHECK(false) << config.block_n;
      return cudaErrorInvalidValue;
  }
}

}  // namespace

absl::Status HopperMatmul(cudaStream_t stream, const HopperMatmulArgs& args,
                          const HopperMatmulConfig& config) {
  const HopperMatmulShape& shape = args.shape;
  if (shape.m == 0 || shape.n == 0 || config.num_blocks == 0) return absl::OkStatus();
  // Operands by rows of K go with rows of groups, those by columns with contracted groups.
  const bool by_columns = shape.operands == MatmulOperands::kFp8Columns ||
                          shape.operands == MatmulOperands::kBF16Columns;
  CHECK(shape.grouping != (by_columns ? MatmulGrouping::kRows : MatmulGrouping::kContracted));
  ASSIGN_OR_RETURN(const TensorMaps maps, MakeMaps(args, config));
  const auto steps = static_cast<int>(NumStepsOfK(shape));
  const HopperMatmulParameters parameters = {
      .grid = {.grouping = shape.grouping,
               .m = static_cast<int>(shape.m),
               .n = static_cast<int>(shape.n),
               .num_steps = steps,
               .steps_of_part = steps / static_cast<int>(shape.k_parts),
               .num_groups = static_cast<int>(shape.num_groups),
               .b_group_rows = static_cast<int>(BGroupRows(args)),
               .offsets = args.offsets,
               .pads_groups = shape.operands == MatmulOperands::kFp8Columns},
      .num_stages = config.num_stages,
      .scales = {.a = args.a_scales,
                 .b = args.b_scales,
                 .b_group = args.b_group_scales == 0
                                ? CeilDiv(shape.n, int64_t{kScaleBlock}) * steps
                                : args.b_group_scales,
                 .a_row = args.a_scale_row,
                 .a_step = args.a_scale_step},
      .result = {.output = args.output,
                 .c = args.c,
                 .stride = args.c_stride,
                 .columns = static_cast<int>(shape.n)}};
  cudaError_t error = cudaErrorInvalidValue;
  switch (shape.operands) {
    case MatmulOperands::kFp8Blocks:
      error = Launch<MatmulOperands::kFp8Blocks>(stream, config, maps, parameters);
      break;
    case MatmulOperands::kFp8Columns:
      error = Launch<MatmulOperands::kFp8Columns>(stream, config, maps, parameters);
      break;
    case MatmulOperands::kBF16:
      error = Launch<MatmulOperands::kBF16>(stream, config, maps, parameters);
      break;
    case MatmulOperands::kBF16Columns:
      error = Launch<MatmulOperands::kBF16Columns>(stream, config, maps, parameters);
      break;
  }
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("matmul ", config.ToString(), ": ", cudaGetErrorString(error)));
}

}  // namespace sluice::kernels::cuda
