// The MoE gate: scores, selection, balance losses, and their gradients.   T tokens, E experts, K
// experts per token,
//   S sequences.  Source: DeepSeek-V3 report (arXiv 2412.19437) section 2.1.2, eq. 12-20;
//   DeepSeek-V2 section 2.1.
#pragma once

#include <limits>

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

enum class ScoringFunc : uint8_t { kSigmoid, kSoftmax };
enum class GroupScore : uint8_t {
  kNone,       // plain top-k ("greedy")
  kTopTwoSum,  // sum of the group's two largest selection scores ("noaux_tc"; one expert in the
               // group: that one)
  kMax,        // the group's largest ("group_limited_greedy")
};

struct RouterConfig {
  int num_experts = 0, experts_per_token = 0;
  int n_group = 1, topk_group = 1;
  ScoringFunc scoring_func = ScoringFunc::kSigmoid;
  GroupScore group_score = GroupScore::kNone;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1.0f;
  // Selection scores of the experts of dropped groups: -infinity as in DeepSeek's own code, or 0 as
  // in older Hugging Face code, where a dropped expert wins over kept ones with negative scores.
  float dropped_score = -std::numeric_limits<float>::infinity();
};

// The softmax subtracts the largest logit; its sum is 32 partial sums, expert i in sum i mod 32 and
// ascending, then halves are added: j and j + 16, j and j + 8, ... Scores are equal to the bit on
// every backend (kernels/core/exp.h), and with them what is selected.
inline constexpr int kSoftmaxSums = 32;

// scores = scoring_func(logits); selection scores = scores + bias; the groups with the highest
// group score stay (others become dropped_score); the K highest selection scores win, ties to the
// lower index. weight = scaling * score, divided by (sum of the K scores + 1e-20) if
// norm_topk_prob. All in FP32. A token's experts are listed in ascending order.
struct RouteArgs {
  RouterConfig config;
  ConstTensorView logits;  // [T, E] f32
  ConstTensorView bias;    // [E] f32 (e_score_correction_bias), or null
  TensorView scores;       // [T, E] f32
  TensorView expert_of;    // [T, K] i32, ascending along K
  TensorView weights;      // [T, K] f32
  TensorView counts;       // [E] i64: += tokens routed to each expert
};
void Route(Stream& stream, const RouteArgs& args);

// The sequence-wise balance loss without its factor alpha (V3 eq. 17-20), and the router z-loss
// (ST-MoE, arXiv 2202.08906 eq. 5) without its factor, one number a sequence each, summed in token
// order in FP64:
//   balance[s] = sum_i f[s, i] P[s, i];  f[s, i] = E / (K L) * #{t in s: score[t, i] among the K
//   largest raw scores of t}; P[s, i] = mean over t in s of score[t, i] / sum_j score[t, j];  z[s]
//   = sum over t in s of logsumexp(logits[t])^2
// where L is the length of s. Ties among raw scores to the lower index.
struct BalanceLossArgs {
  RouterConfig config;
  ConstTensorView logits;   // [T, E] f32
  ConstTensorView scores;   // [T, E] f32
  ConstTensorView starts;   // [S + 1] i32 as in AttentionArgs
  TensorView load;          // [S, E] f32: f, for backward
  TensorView balance;       // [S] f64
  TensorView z;             // [S] f64
  TensorView scratch = {};  // [BalanceLossScratchBytes(...)] u8
};
void BalanceLoss(Stream& stream, const BalanceLossArgs& args);

// Enough for so many tokens on this stream's device; 0 is legal, scratch may then be null. CUDA
// keeps what each token adds, which is found side by side and added in order.
size_t BalanceLossScratchBytes(Stream& stream, int64_t tokens, const RouterConfig& config);

// dlogits of: sum(dweights * weights) + balance_scale * sum_s balance[s] + z_scale * sum_s z[s]
//             + sum_{t,i} score[t, i] / sum_j score[t, j] * global_load_scale[i]   (the last where
//             given; f held constant)
struct RouterBackwardArgs {
  RouterConfig config;
  ConstTensorView logits;     // [T, E] f32
  ConstTensorView scores;     // [T, E] f32
  ConstTensorView expert_of;  // [T, K] i32
  ConstTensorView dweights;   // [T, K] f32
  ConstTensorView starts;     // [S + 1] i32
  ConstTensorView load;       // [S, E] f32
  TensorView dlogits;         // [T, E] f32
  float balance_scale = 0.0f, z_scale = 0.0f;
  ConstTensorView global_load_scale = {};  // [E] f32 or null
};
void RouterBackward(Stream& stream, const RouterBackwardArgs& args);

}  // namespace sluice::kernels
