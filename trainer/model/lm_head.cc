#include "trainer/model/lm_head.h"

#include <algorithm>

#include "kernels/ops/cross_entropy.h"

namespace sluice::trainer {

void LmHead::Loss(const Context& context, const LossArgs& args) {
  const int64_t tokens = args.h.extent(0), vocabulary = linear_.weight().shape[0];
  const int64_t chunk = std::min(tokens, kChunkRows);
  const bool backward = !args.dh.is_null();
  const bool in_place = context.dtype == DType::kF32;
  Temporary logits(context.pool, DType::kF32, {chunk, vocabulary});
  Temporary rounded(context.pool, context.dtype, {backward && !in_place ? chunk : 0, vocabulary});
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t rows = std::min(chunk, tokens - begin);
    const TensorView chunk_logits = logits.view().Rows(0, rows);
    TensorView d_logits;
    if (backward) d_logits = in_place ? chunk_logits : rounded.view().Rows(0, rows);
    linear_.Forward(context, args.h.Rows(begin, rows), chunk_logits);
    kernels::CrossEntropy(context.stream, {.logits = chunk_logits,
                                           .targets = args.targets.Rows(begin, rows),
                                           .loss = args.loss.Rows(begin, rows),
                                           .dlogits = d_logits,
                                           .scale = args.scale});
    if (!backward) continue;
    linear_.BackwardInput(context, d_logits, args.dh.Rows(begin, rows));
    linear_.BackwardWeight(context, d_logits, args.h.Rows(begin, rows));
  }
}

}  // namespace sluice::trainer
