// What the ops that write or read codes check of them.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/ops/block_quantize.h"

namespace sluice::kernels {

// `offsets` is null or a vector; returns how many groups it bounds.
int64_t CheckOffsets(const Stream& stream, const ConstTensorView& offsets);
// `rows` is the codes of a tensor of this shape.
void CheckRows(const Stream& stream, const QuantizedRows& rows, const Shape& shape,
               int64_t num_tiles);
void CheckColumns(const Stream& stream, const QuantizedColumns& columns, const Shape& shape,
                  int64_t groups);

}  // namespace sluice::kernels
