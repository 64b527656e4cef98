// The products of kernels/ops on Hopper's tensor cores, or by the stream's library where it has one
// that takes them (libraries.h). Each returns false, having done nothing,
// where CheckHopperMatmul refuses the shape or the stream asks for mma.sync only: then the caller
// does it that way. The choice depends on no number of rows, so that bits do not either.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/matmul.h"

namespace sluice::kernels::cuda {

bool MatmulByWgmma(Stream& stream, const MatmulArgs& args);
bool PackedMatmulByWgmma(Stream& stream, const PackedMatmulArgs& args);
bool GroupedMatmulByWgmma(Stream& stream, const GroupedMatmulArgs& args);
bool GroupedWeightGradientByWgmma(Stream& stream, const GroupedWeightGradientArgs& args);
bool Fp8MatmulByWgmma(Stream& stream, const Fp8MatmulArgs& args);
bool Fp8WeightGradientByWgmma(Stream& stream, const Fp8WeightGradientArgs& args);

}  // namespace sluice::kernels::cuda
