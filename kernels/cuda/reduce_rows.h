// reduce_rows on a CUDA stream.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/ops/reduce_rows.h"

namespace sluice::kernels::cuda {

void ReduceRows(Stream& stream, const ReduceRowsArgs& args);

}  // namespace sluice::kernels::cuda
