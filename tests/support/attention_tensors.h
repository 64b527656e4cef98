// The tensors of one attention and its gradients, as the arguments of either op.
#pragma once

#include "kernels/ops/attention.h"
#include "tests/support/tensor.h"

namespace sluice::testing {

struct AttentionTensors {
  kernels::AttentionArgs Forward() const {
    return {.q = q,
            .k = k,
            .v = v,
            .starts = starts,
            .o = o,
            .log_sum_exp = log_sum_exp,
            .scale = scale,
            .scratch = scratch};
  }
  kernels::AttentionBackwardArgs Backward() const {
    return {.dout = dout,
            .q = q,
            .k = k,
            .v = v,
            .starts = starts,
            .o = o,
            .log_sum_exp = log_sum_exp,
            .dq = dq,
            .dk = dk,
            .dv = dv,
            .scale = scale,
            .scratch = scratch};
  }

  Tensor starts, q, k, v, o, log_sum_exp, dout, dq, dk, dv;
  Tensor scratch;  // empty: the device wants none
  float scale = 1;
};

}  // namespace sluice::testing
