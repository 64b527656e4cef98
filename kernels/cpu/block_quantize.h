// block_quantize on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/block_quantize.h"

namespace sluice::kernels::cpu {

// Rows [begin, end), at most 128, whose scales along the rows are scale row `index`.
struct RowTile {
  int64_t begin = 0, end = 0, index = 0;
};

struct BlockQuantizeTable {
  void (*quantize_f32)(const QuantizeArgs& args, const RowTile& tile) = nullptr;
  void (*quantize_bf16)(const QuantizeArgs& args, const RowTile& tile) = nullptr;
  void (*requantize)(const RequantizeColumnsArgs& args, const RowTile& tile) = nullptr;
  ByDType<DequantizeRowsArgs> dequantize;  // by dtype of y; rows [begin, end)
  // `tile.index` counts over all experts; rows within the expert.
  void (*quantize_weight_f32)(const QuantizeWeightArgs& args, int64_t e,
                              const RowTile& tile) = nullptr;
  void (*quantize_weight_bf16)(const QuantizeWeightArgs& args, int64_t e,
                               const RowTile& tile) = nullptr;
};
BlockQuantizeTable BlockQuantizeTableOf(Target target);

void Quantize(ThreadPool& pool, const QuantizeArgs& args);
void RequantizeColumns(ThreadPool& pool, const RequantizeColumnsArgs& args);
void DequantizeRows(ThreadPool& pool, const DequantizeRowsArgs& args);
void QuantizeWeight(ThreadPool& pool, const QuantizeWeightArgs& args);
void DequantizeWeight(ThreadPool& pool, const DequantizeWeightArgs& args);
void PackWireRows(ThreadPool& pool, const WireRowsArgs& args);
void UnpackWireRows(ThreadPool& pool, const WireRowsArgs& args);
void AddQuantizationStats(const QuantizationStatsArgs& args);
void AddWeightStats(const WeightStatsArgs& args);  // of one expert

}  // namespace sluice::kernels::cpu
