// What a model asks of a machine, as numbers a layer: the planner's view of a model. Filled by
// trainer/model, so that no planner knows a configuration.   H hidden, E experts, I expert width
#pragma once

#include <cstdint>
#include <vector>

namespace sluice::parallel {

// The forward of one token through some ops (of one row, for routed experts).
struct Work {
  double product_flops = 0;  // of matrix products with weights
  double in_elements = 0;    // that these products read, once each
  double out_elements = 0;   // that they write
  // Of these, what FP8 products have to quantise first: inputs that several products share once,
  // and not the rows of experts, which arrive quantised.
  double fresh_in = 0, fresh_out = 0;
  // Of the fresh ones, what is quantised where it is computed, if the scale is a tile's: SwiGLU's
  // result and its gradient. `touched` has them as written.
  double fused_in = 0, fused_out = 0;
  double weights = 0;     // parameters they read: of a call, not of a token
  double core_flops = 0;  // attention without its projections, counted causally
  double touched = 0;     // elements that all other ops read or write
  int ops = 0;            // kernels launched in a call
};

// Elements kept between forward and backward, of a token.
struct Kept {
  double norms = 0;   // dropped by recompute "norm"
  double mla_up = 0;  // dropped by "mla_up": expanded q, k, v
  double swiglu = 0;  // dropped by "swiglu"
  double rest = 0;
  double returned = 0;  // rows as they came back, for the gate's gradient; not kept beside FP8
};

struct LayerWork {
  bool is_moe = false;
  Work attention;
  // What recompute runs again: "norm", "mla_up" (zero without MLA), "swiglu".
  Work norms, mla_up, swiglu;
  Work expert_swiglu;  // of a routed row
  Work dense;          // the MLP of a dense layer; shared experts and gate of a MoE layer
  Work expert;         // routed, of one row; weights: of one expert
  double dense_parameters = 0, expert_parameters = 0;  // the latter of one expert
  double bias_parameters = 0;  // of the dense ones: stored, but not by gradient descent
  double wide_weights = 0;     // of the dense products: the gate's, BF16 beside FP8
  double state_bytes = 0;      // counters and biases of a gate
  Kept kept;                   // of a token, everything outside routed experts
  Kept kept_row;               // of a routed row
};

struct ModelWork {
  std::vector<LayerWork> layers;  // prediction modules are not among them
  LayerWork mtp;                  // one prediction module, its share of the head not counted
  int mtp_depth = 0;
  Work head;  // output projection and loss
  double embedding_parameters = 0, head_parameters = 0;
  double table_bytes = 0;  // rotations, on every rank
  bool tied_embedding = false;
  int64_t hidden = 0, sequence_length = 0;
  int experts = 0, experts_per_token = 0;
  int groups = 1, group_limit = 0;  // n_group, topk_group; group_limit 0: not limited
  double kv_elements = 0;           // of a token and layer, what context parallelism passes round
  double parameters = 0;            // stored, prediction modules included
  double flops_per_token = 0;       // forward and backward without prediction modules, causal
  double flops_per_token_full = 0;  // the same with attention over the whole square
};

}  // namespace sluice::parallel
