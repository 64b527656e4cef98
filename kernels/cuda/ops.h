// The ops of kernels/ops on a CUDA stream: called by kernels/ops/*.cc, which have checked the
// arguments. Each launches its kernels and returns; allocates nothing, waits for nothing.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/rms_norm.h"

namespace sluice::kernels::cuda {

void Cast(Stream& stream, const CastArgs& args);
void Fill(Stream& stream, const TensorView& to, double value);
void Add(Stream& stream, const AddArgs& args);

void RmsNorm(Stream& stream, const RmsNormArgs& args);
void RmsNormBackwardInput(Stream& stream, const RmsNormBackwardInputArgs& args);
void RmsNormBackwardWeight(Stream& stream, const RmsNormBackwardWeightArgs& args);

}  // namespace sluice::kernels::cuda
