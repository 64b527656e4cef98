// The truth for embedding: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/embedding.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/embedding.h"

namespace sluice::kernels::reference {

void Embedding(const EmbeddingArgs& args);
void EmbeddingBackward(const EmbeddingBackwardArgs& args);

}  // namespace sluice::kernels::reference
