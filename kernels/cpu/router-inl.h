#include "kernels/cpu/reduce-inl.h"
#include "kernels/cpu/softmax-inl.h"

namespace sluice::kernels::cpu::SLUICE_TARGET {

// sum of e^(x - most), in the order that kernels/ops/router.h states.
inline float SumExpOfLogits(const float* x, float most, int64_t n) {
  constexpr int kVectors = kSoftmaxSums / kLanes;
  const F32 m = Set(most);
  F32 sums[kVectors];
  for (F32& sum : sums) sum = Zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    F32& sum = sums[i / kLanes % kVectors];
    if (i + kLanes <= n) {
      sum = Add(sum, Exp(Sub(Load(x + i), m)));
      continue;
    }
    const int rest = static_cast<int>(n - i);
    float tail[kLanes] = {};
    Store(tail, Exp(Sub(Load(x + i, rest), m)), rest);
    sum = Add(sum, Load(tail));
  }
  for (int width = kVectors / 2; width > 0; width /= 2) {
    for (int v = 0; v < width; ++v) sums[v] = Add(sums[v], sums[v + width]);
  }
  return ReduceAdd(sums[0]);
}

inline void ScoreTokens(const RouteArgs& args, int64_t begin, int64_t end) {
  const int64_t experts = args.logits.extent(1);
  const bool softmax = args.config.scoring_func == ScoringFunc::kSoftmax;
  for (int64_t t = begin; t < end; ++t) {
    const float* x = args.logits.data<float>() + t * args.logits.row_stride();
    float* scores = args.scores.mutable_data<float>() + t * args.scores.row_stride();
    const float most = softmax ? RowMax(x, experts) : 0.0f;
    const F32 sum = Set(softmax ? SumExpOfLogits(x, most, experts) : 1.0f);
    for (int64_t i = 0; i < experts; i += kLanes) {
      const int n = experts - i < kLanes ? static_cast<int>(experts - i) : kLanes;
      const F32 logits = Load(x + i, n);
      Store(scores + i, softmax ? Div(Exp(Sub(logits, Set(most))), sum) : Sigmoid(logits), n);
    }
  }
}

inline float LogSumExpOfRow(const float* x, int64_t n) {
  const float most = RowMax(x, n);
  const double sum = static_cast<double>(SumExpOfLogits(x, most, n));
  return static_cast<float>(static_cast<double>(most) + std::log(sum));
}

// The last step: gradients of the scores, found in dlogits, become gradients of the logits.
inline void ThroughScores(const RouterBackwardArgs& args, const float* logits, const float* scores,
                          float* dlogits) {
  const int64_t experts = args.logits.extent(1);
  const bool softmax = args.config.scoring_func == ScoringFunc::kSoftmax;
  const F32 dot = Set(softmax ? DotProduct(dlogits, scores, experts) : 0.0f);
  const bool with_z = args.z_scale != 0.0f;
  const float log_sum_exp = with_z ? LogSumExpOfRow(logits, experts) : 0.0f;
  const F32 z_factor = Set(2.0f * args.z_scale * log_sum_exp);
  for (int64_t i = 0; i < experts; i += kLanes) {
    const int n = experts - i < kLanes ? static_cast<int>(experts - i) : kLanes;
    const F32 s = Load(scores + i, n), ds = Load(dlogits + i, n);
    F32 d = softmax ? Mul(s, Sub(ds, dot)) : Mul(Mul(ds, s), Sub(Set(1.0f), s));
    if (with_z) {
      d = Fma(z_factor, Exp(Sub(Load(logits + i, n), Set(log_sum_exp))), d);
    }
    Store(dlogits + i, d, n);
  }
}

// Adds the gradient of the routing weights to that of the scores.
inline void ThroughWeights(const RouterConfig& config, const float* scores, const int32_t* experts,
                           const float* dweights, float* dscores) {
  float selected = 0.0f, weighted = 0.0f;
  for (int k = 0; k < config.experts_per_token; ++k) {
    selected += scores[experts[k]];
    weighted += dweights[k] * scores[experts[k]];
  }
  selected += 1e-20f;
  const float mean = weighted / selected;
  for (int k = 0; k < config.experts_per_token; ++k) {
    const float d = config.norm_topk_prob ? (dweights[k] - mean) / selected : dweights[k];
    dscores[experts[k]] += config.routed_scaling_factor * d;
  }
}

inline void RouterBackwardTokens(const RouterBackwardArgs& args, int64_t s, int64_t begin,
                                 int64_t end) {
  const int64_t experts = args.logits.extent(1);
  const int32_t* starts = args.starts.data<int32_t>();
  const float* load = args.load.data<float>() + s * args.load.row_stride();
  const float* global =
      args.global_load_scale.is_null() ? nullptr : args.global_load_scale.data<float>();
  const F32 per_token = Set(args.balance_scale / static_cast<float>(starts[s + 1] - starts[s]));
  for (int64_t t = begin; t < end; ++t) {
    const float* scores = args.scores.data<float>() + t * args.scores.row_stride();
    float* dlogits = args.dlogits.mutable_data<float>() + t * args.dlogits.row_stride();
    // sum_i c_i score_i / sum_j score_j, with c the coefficients of both balance losses.
    F32 sum = Zero(), weighted = Zero();
    for (int64_t i = 0; i < experts; i += kLanes) {
      const int n = experts - i < kLanes ? static_cast<int>(experts - i) : kLanes;
      F32 c = Mul(per_token, Load(load + i, n));
      if (global != nullptr) c = Add(c, Load(global + i, n));
      const F32 score = Load(scores + i, n);
      sum = Add(sum, score);
      weighted = Fma(c, score, weighted);
      Store(dlogits + i, c, n);
    }
    const float total = ReduceAdd(sum), mean = ReduceAdd(weighted) / total;
    for (int64_t i = 0; i < experts; i += kLanes) {
      const int n = experts - i < kLanes ? static_cast<int>(experts - i) : kLanes;
      Store(dlogits + i, Div(Sub(Load(dlogits + i, n), Set(mean)), Set(total)), n);
    }
    ThroughWeights(args.config, scores,
                   args.expert_of.data<int32_t>() + t * args.expert_of.row_stride(),
                   args.dweights.data<float>() + t * args.dweights.row_stride(), dlogits);
    ThroughScores(args, args.logits.data<float>() + t * args.logits.row_stride(), scores, dlogits);
  }
}

inline constexpr RouterTable kRouterTable = {
    .scores = ScoreTokens, .log_sum_exp = LogSumExpOfRow, .backward = RouterBackwardTokens};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
