#include "kernels/ops/embedding.h"

#include "kernels/cpu/embedding.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void Embedding(Stream& stream, const EmbeddingArgs& args) {
  const DType dtype = CheckFloat("Embedding.table", args.table);
  CHECK_EQ(args.table.shape().rank(), 2);
  CHECK_EQ(args.tokens.shape().rank(), 1);
  CheckTensor(stream, "Embedding.tokens", args.tokens, args.tokens.shape(), DType::kI32);
  CheckTensor(stream, "Embedding.table", args.table, args.table.shape(), dtype);
  CheckTensor(stream, "Embedding.y", args.y, {args.tokens.extent(0), args.table.extent(1)}, dtype);
  RUN_OP(stream, Embedding, args);
}

void EmbeddingBackward(Stream& stream, const EmbeddingBackwardArgs& args) {
  const DType dtype = CheckFloat("EmbeddingBackward.dy", args.dy);
  CHECK_EQ(args.dtable.shape().rank(), 2);
  CHECK_EQ(args.tokens.shape().rank(), 1);
  CheckTensor(stream, "EmbeddingBackward.dy", args.dy,
              {args.tokens.extent(0), args.dtable.extent(1)}, dtype);
  CheckTensor(stream, "EmbeddingBackward.tokens", args.tokens, args.tokens.shape(), DType::kI32);
  CheckTensor(stream, "EmbeddingBackward.dtable", args.dtable, args.dtable.shape(), DType::kF32);
  RUN_OP(stream, EmbeddingBackward, args);
}

}  // namespace sluice::kernels
