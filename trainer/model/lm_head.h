// The output projection with its loss.   T tokens, V vocabulary, H hidden, C rows of a chunk
//
// In training, Forward computes for each chunk of rows: logits, losses, the logits' gradient, and
// at once dh and the head's weight gradient. So no more than one chunk of logits ever exists and
// none is computed twice; the price is that the head's weight gradient is added in Forward, which
// keeps its order (microbatches ascend) but leaves nothing for a later BackwardWeight.
#pragma once

#include "absl/status/status.h"
#include "trainer/model/context.h"
#include "trainer/model/linear.h"

namespace sluice::trainer {

class LmHead {
 public:
  static constexpr int64_t kChunkRows = 256;

  explicit LmHead(Parameter& weight) : linear_(weight) {}

  struct LossArgs {
    ConstTensorView h;        // [T, H]
    ConstTensorView targets;  // [T] i32, negative: none
    float scale = 1;          // of the gradient of each token's loss
    TensorView loss;          // [T] f32
    TensorView dh = {};       // [T, H], or null: losses only
  };
  void Loss(const Context& context, const LossArgs& args);
  // logits [T, V] f32, for generation and comparison.
  void Logits(const Context& context, ConstTensorView h, TensorView logits) {
    linear_.Forward(context, h, logits);
  }
  Linear& linear() { return linear_; }

 private:
  Linear linear_;
};

}  // namespace sluice::trainer
