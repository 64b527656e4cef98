// The ops of kernels/ops on a CUDA stream: called by kernels/ops/*.cc, which have checked the
// arguments. Each launches its kernels and returns; allocates nothing, waits for nothing.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/block_quantize.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/compare.h"
#include "kernels/ops/copy_heads.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/e5m6.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/low_rank.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/router.h"
#include "kernels/ops/swiglu.h"
#include "kernels/ops/swiglu_quantize.h"

namespace sluice::kernels::cuda {

void Cast(Stream& stream, const CastArgs& args);
void Fill(Stream& stream, const TensorView& to, double value);
void Add(Stream& stream, const AddArgs& args);

void RmsNorm(Stream& stream, const RmsNormArgs& args);
void RmsNormBackwardInput(Stream& stream, const RmsNormBackwardInputArgs& args);
void RmsNormBackwardWeight(Stream& stream, const RmsNormBackwardWeightArgs& args);

void GatherRows(Stream& stream, const GatherRowsArgs& args);
void CombineRows(Stream& stream, const CombineRowsArgs& args);
void CombineRowsBackward(Stream& stream, const CombineRowsBackwardArgs& args);

void AdamW(Stream& stream, const AdamWArgs& args);
void SumSquares(Stream& stream, const SumSquaresArgs& args);

void Attention(Stream& stream, const AttentionArgs& args);
void AttentionBackward(Stream& stream, const AttentionBackwardArgs& args);

void Quantize(Stream& stream, const QuantizeArgs& args);
void RequantizeColumns(Stream& stream, const RequantizeColumnsArgs& args);
void DequantizeRows(Stream& stream, const DequantizeRowsArgs& args);
void QuantizeWeight(Stream& stream, const QuantizeWeightArgs& args);
void DequantizeWeight(Stream& stream, const DequantizeWeightArgs& args);
void PackWireRows(Stream& stream, const WireRowsArgs& args);
void UnpackWireRows(Stream& stream, const WireRowsArgs& args);
void PackE5m6Rows(Stream& stream, const E5m6RowsArgs& args);
void UnpackE5m6Rows(Stream& stream, const E5m6RowsArgs& args);

// Each weight copy where K is contiguous: `codes` forward, `transposed_codes` backward. Columns may
// be `transposed` or not.
void Fp8Matmul(Stream& stream, const Fp8MatmulArgs& args);
void Fp8WeightGradient(Stream& stream, const Fp8WeightGradientArgs& args);

void PackMatrix(Stream& stream, const PackMatrixArgs& args);
void Matmul(Stream& stream, const MatmulArgs& args);
void PackedMatmul(Stream& stream, const PackedMatmulArgs& args);
void GroupedMatmul(Stream& stream, const GroupedMatmulArgs& args);
void GroupedWeightGradient(Stream& stream, const GroupedWeightGradientArgs& args);

void Route(Stream& stream, const RouteArgs& args);
void BalanceLoss(Stream& stream, const BalanceLossArgs& args);
void RouterBackward(Stream& stream, const RouterBackwardArgs& args);

void Swiglu(Stream& stream, const SwigluArgs& args);
void SwigluBackward(Stream& stream, const SwigluBackwardArgs& args);
void SwigluQuantize(Stream& stream, const SwigluQuantizeArgs& args);
void SwigluBackwardQuantize(Stream& stream, const SwigluBackwardQuantizeArgs& args);

void Rope(Stream& stream, const RopeArgs& args);
void SumHeads(Stream& stream, const SumHeadsArgs& args);
void BroadcastHeads(Stream& stream, const BroadcastHeadsArgs& args);
void CopyHeads(Stream& stream, const CopyHeadsArgs& args);

void Embedding(Stream& stream, const EmbeddingArgs& args);
void EmbeddingBackward(Stream& stream, const EmbeddingBackwardArgs& args);
void CrossEntropy(Stream& stream, const CrossEntropyArgs& args);

void ScaledAdd(Stream& stream, const ScaledAddArgs& args);
void Dropout(Stream& stream, const DropoutArgs& args);
void Sample(Stream& stream, const SampleArgs& args);
void RowIds(Stream& stream, const RowIdsArgs& args);
void SplitRowIds(Stream& stream, const SplitRowIdsArgs& args);
void ExpertRowIds(Stream& stream, const ExpertRowIdsArgs& args);

// Enqueues multiply-adds of `dtype` (f32 | bf16) on all multiprocessors and returns how many
// floating-point operations they are.
double RunPeakLoop(Stream& stream, DType dtype, int64_t iterations);

}  // namespace sluice::kernels::cuda
