// The gate: a warp a token for scores, selection, gradients and terms of the losses; a block a
// sequence adds the terms.
#include "kernels/core/exp.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr float kNormEps = 1e-20f;     // of DeepSeek's released gate
constexpr int kWarps = 4;              // tokens of a block of Route and RouterBackward
static_assert(kWarp == kSoftmaxSums);  // a lane a partial sum
constexpr int kMostExperts = 64 * kWarp;

// Keys that order as the floats do; every NaN comes last.
__device__ inline uint32_t KeyOf(float x) {
  if (isnan(x)) return 0;
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The index of the largest of x[0, n) that `taken` (bit c for lane + 32 c) does not exclude, ties
// to the lower index; the same in every lane. n - (number taken) >= 1.
__device__ int64_t ArgMax(const float* x, int64_t n, uint64_t taken) {
  const int lane = threadIdx.x % kWarp;
  uint32_t best_key = 0;
  int64_t best = n;
  for (int64_t i = lane; i < n; i += kWarp) {
    if ((taken >> (i / kWarp) & 1) != 0) continue;
    const uint32_t key = KeyOf(x[i]);
    if (best == n || key > best_key) best_key = key, best = i;
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const uint32_t other_key = __shfl_xor_sync(kAllLanes, best_key, offset);
    const auto other = static_cast<int64_t>(__shfl_xor_sync(kAllLanes, best, offset));
    const bool is_better =
        other < n && (best == n || other_key > best_key || (other_key == best_key && other < best));
    if (is_better) best_key = other_key, best = other;
  }
  return best;
}

// Which of x[0, n) are its `top` largest: bit c for lane + 32 c.
__device__ uint64_t TopK(const float* x, int64_t n, int top) {
  const int lane = threadIdx.x % kWarp;
  uint64_t taken = 0;
  for (int k = 0; k < top; ++k) {
    const int64_t best = ArgMax(x, n, taken);
    if (best % kWarp == lane) taken |= uint64_t{1} << (best / kWarp);
  }
  return taken;
}

// Sets the selection scores of all but the best groups to -infinity. `group_scores` is scratch.
__device__ void MaskGroups(const RouterConfig& config, float* selection, float* group_scores) {
  const int lane = threadIdx.x % kWarp;
  const int size = config.num_experts / config.n_group;
  for (int g = lane; g < config.n_group; g += kWarp) {
    const float* x = selection + g * size;
    float first = x[0], second = -__builtin_huge_valf();
    for (int i = 1; i < size; ++i) {
      second = x[i] > first ? first : fmaxf(second, x[i]);
      first = fmaxf(first, x[i]);
    }
    const bool both = config.group_score == GroupScore::kTopTwoSum && size > 1;
    group_scores[g] = both ? first + second : first;
  }
  __syncwarp();
  const uint64_t kept = TopK(group_scores, config.n_group, config.topk_group);
  for (int g = lane; g < config.n_group; g += kWarp) {
    if ((kept >> (g / kWarp) & 1) != 0) continue;
    for (int i = 0; i < size; ++i) selection[g * size + i] = -__builtin_huge_valf();
  }
  __syncwarp();
}

struct RouteParameters {
  RouterConfig config;
  Rows<const float> logits;
  const float* bias;
  Rows<float> scores;
  Rows<int32_t> expert_of;
  Rows<float> weights;
  unsigned long long* counts;  // NOLINT: what atomicAdd takes
  int64_t tokens;
};

__device__ void ScoreToken(const RouteParameters& p, int64_t token) {
  const int lane = threadIdx.x % kWarp, experts = p.config.num_experts;
  const float* x = p.logits[token];
  float* scores = p.scores[token];
  if (p.config.scoring_func == ScoringFunc::kSigmoid) {
    for (int i = lane; i < experts; i += kWarp) scores[i] = Sigmoid(x[i]);
    return;
  }
  float most = -__builtin_huge_valf(), sum = 0.0f;
  for (int i = lane; i < experts; i += kWarp) most = fmaxf(most, x[i]);
  most = WarpReduce<Max>(most);
  for (int i = lane; i < experts; i += kWarp) sum += Exp(x[i] - most);
  sum = WarpReduce<Sum>(sum);
  for (int i = lane; i < experts; i += kWarp) scores[i] = Exp(x[i] - most) / sum;
}

// expert_of and weights, experts ascending: chunk by chunk of 32, lanes in order.
__device__ void WriteChoice(const RouteParameters& p, int64_t token, uint64_t chosen) {
  const int lane = threadIdx.x % kWarp;
  const int chunks = (p.config.num_experts + kWarp - 1) / kWarp;
  const float* scores = p.scores[token];
  float sum = 0.0f;
  int written = 0;
  for (int c = 0; c < chunks; ++c) {
    const bool is_mine = (chosen >> c & 1) != 0;
    const float score = is_mine ? scores[c * kWarp + lane] : 0.0f;
    const unsigned lanes = __ballot_sync(kAllLanes, is_mine);
    if (is_mine) {
      const int k = written + __popc(lanes & ((1u << lane) - 1));
      p.expert_of[token][k] = c * kWarp + lane;
      p.weights[token][k] = p.config.routed_scaling_factor * score;
      atomicAdd(p.counts + c * kWarp + lane, 1);  // integers: any order gives the same
    }
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
      sum += __shfl_sync(kAllLanes, score, __ffs(static_cast<int>(rest)) - 1);
    }
    written += __popc(lanes);
  }
  __syncwarp();
  for (int k = lane; p.config.norm_topk_prob && k < written; k += kWarp) {
    p.weights[token][k] = p.weights[token][k] / (sum + kNormEps);
  }
}

__global__ void __launch_bounds__(kWarps* kWarp) route_kernel(const RouteParameters p) {
  extern __shared__ float scratch[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (token >= p.tokens) return;
  const int experts = p.config.num_experts;
  float* selection = scratch + warp * (experts + p.config.n_group);
  ScoreToken(p, token);
  for (int i = lane; i < experts; i += kWarp) {
    const float score = p.scores[token][i];
    selection[i] = p.bias == nullptr ? score : score + p.bias[i];
  }
  __syncwarp();
  if (p.config.group_score != GroupScore::kNone) {
    MaskGroups(p.config, selection, selection + experts);
  }
  WriteChoice(p, token, TopK(selection, experts, p.config.experts_per_token));
}

struct BalanceParameters {
  RouterConfig config;
  Rows<const float> logits, scores;
  const int32_t* starts;
  Rows<float> load;
  double *balance, *z;
  int64_t tokens;
  // Of each token: the experts' shares of its scores, log_sum_exp^2, and the experts that it chose.
  double *shares, *z_of_token;  // [T, E], [T]
  uint32_t* chosen;             // [T, words], a bit an expert
  int words;
};

// What each token adds to its sequence's losses; a warp a token.
__global__ void __launch_bounds__(kWarps* kWarp)
    balance_of_token_kernel(const BalanceParameters p) {
  const int lane = threadIdx.x % kWarp, experts = p.config.num_experts;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (t >= p.tokens) return;
  const float *scores = p.scores[t], *logits = p.logits[t];
  double sum = 0.0;
  float most = -__builtin_huge_valf(), exponentials = 0.0f;
  for (int i = lane; i < experts; i += kWarp) {
    sum += static_cast<double>(scores[i]);
    most = fmaxf(most, logits[i]);
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, offset);
  }
  most = WarpReduce<Max>(most);
  for (int i = lane; i < experts; i += kWarp) exponentials += Exp(logits[i] - most);
  exponentials = WarpReduce<Sum>(exponentials);
  const uint64_t chosen = TopK(scores, experts, p.config.experts_per_token);
  for (int word = 0; word < p.words; ++word) {
    const uint32_t mask = __ballot_sync(kAllLanes, (chosen >> word & 1) != 0);
    if (lane == 0) p.chosen[t * p.words + word] = mask;
  }
  const double inverse = 1.0 / sum;
  for (int i = lane; i < experts; i += kWarp) {
    p.shares[t * experts + i] = static_cast<double>(scores[i]) * inverse;
  }
  if (lane == 0) {
    const auto log_sum_exp =
        static_cast<float>(static_cast<double>(most) + log(static_cast<double>(exponentials)));
    p.z_of_token[t] = static_cast<double>(log_sum_exp) * static_cast<double>(log_sum_exp);
  }
}

// at[0] + at[stride] + ... of so many, in order.
template <typename T, typename Value>
__device__ auto SumInOrder(const T* at, int64_t stride, int64_t count, const Value& value) {
  constexpr int kAhead = 32;  // loaded before the first is added
  decltype(value(*at)) sum = 0;
  int64_t t = 0;
  for (; t + kAhead <= count; t += kAhead) {
    T some[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k, at += stride) some[k] = *at;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) sum += value(some[k]);
  }
  for (; t < count; ++t, at += stride) sum += value(*at);
  return sum;
}

constexpr int kBalanceThreads = 480;  // at most, for the shares; as many for the loads

// Block: a sequence; a thread an expert's shares, another its load, and a warp for z.
__global__ void __launch_bounds__(2 * kBalanceThreads + kWarp)
    balance_loss_kernel(const BalanceParameters p) {
  extern __shared__ double share[];  // [E] of an expert; then, of floats, its load
  const int experts = p.config.num_experts, thread = static_cast<int>(threadIdx.x);
  const int step = static_cast<int>(blockDim.x - kWarp) / 2;
  auto* load = reinterpret_cast<int*>(share + experts);
  const int64_t sequence = blockIdx.x, begin = p.starts[sequence];
  const int64_t count = p.starts[sequence + 1] - begin;
  const auto same = [](double x) { return x; };
  for (int i = thread; i < experts && thread < step; i += step) {
    share[i] = SumInOrder(p.shares + begin * experts + i, experts, count, same);
  }
  for (int i = thread - step; i < experts && thread >= step && thread < 2 * step; i += step) {
    load[i] = SumInOrder(p.chosen + begin * p.words + i / kWarp, p.words, count,
                         [&](uint32_t x) { return static_cast<int>(x >> (i % kWarp) & 1); });
  }
  if (thread == 2 * step) p.z[sequence] = SumInOrder(p.z_of_token + begin, 1, count, same);
  __syncthreads();
  const double length = static_cast<double>(count);
  for (int i = thread; i < experts; i += static_cast<int>(blockDim.x)) {
    const double f = count == 0 ? 0.0
                                : static_cast<double>(experts) * static_cast<double>(load[i]) /
                                      (p.config.experts_per_token * length);
    p.load[sequence][i] = static_cast<float>(f);
    share[i] = count == 0 ? 0.0 : f * (share[i] / length);
  }
  __syncthreads();
  if (thread != 0) return;
  double balance = 0.0;
  for (int i = 0; i < experts; ++i) balance += share[i];
  p.balance[sequence] = balance;
}

struct BackwardParameters {
  RouterConfig config;
  Rows<const float> logits, scores;
  Rows<const int32_t> expert_of;
  Rows<const float> dweights;
  const int32_t* starts;
  Rows<const float> load;
  Rows<float> dlogits;
  float balance_scale, z_scale;
  const float* global_load_scale;
  int64_t tokens, sequences;
};

// The sequence of token t: the last that starts at or before it and is not empty.
__device__ int64_t SequenceOf(const BackwardParameters& p, int64_t t) {
  int64_t low = 0, high = p.sequences;  // starts[low] <= t < starts[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (p.starts[middle] <= t ? low : high) = middle;
  }
  return low;
}

// Adds the gradient of the routing weights to that of the scores; one lane a chosen expert.
__device__ void ThroughWeights(const BackwardParameters& p, int64_t token, float* dscores) {
  const int32_t* experts = p.expert_of[token];
  const float *scores = p.scores[token], *dweights = p.dweights[token];
  float selected = kNormEps, weighted = 0.0f;
  for (int k = 0; k < p.config.experts_per_token; ++k) {
    selected += scores[experts[k]];
    weighted += dweights[k] * scores[experts[k]];
  }
  const float mean = weighted / selected;
  for (int k = threadIdx.x % kWarp; k < p.config.experts_per_token; k += kWarp) {
    const float d = p.config.norm_topk_prob ? (dweights[k] - mean) / selected : dweights[k];
    dscores[experts[k]] += p.config.routed_scaling_factor * d;
  }
}

// Gradients of the scores, found in dlogits, become gradients of the logits.
__device__ void ThroughScores(const BackwardParameters& p, int64_t token, float* dlogits) {
  const int lane = threadIdx.x % kWarp, experts = p.config.num_experts;
  const float *logits = p.logits[token], *scores = p.scores[token];
  const bool is_softmax = p.config.scoring_func == ScoringFunc::kSoftmax;
  float dot = 0.0f, most = -__builtin_huge_valf(), sum = 0.0f;
  for (int i = lane; i < experts; i += kWarp) {
    dot = __fmaf_rn(dlogits[i], scores[i], dot);
    most = fmaxf(most, logits[i]);
  }
  dot = WarpReduce<Sum>(dot);
  most = WarpReduce<Max>(most);
  for (int i = lane; i < experts; i += kWarp) sum += Exp(logits[i] - most);
  sum = WarpReduce<Sum>(sum);
  const float log_sum_exp = most + logf(sum), z_factor = 2.0f * p.z_scale * log_sum_exp;
  for (int i = lane; i < experts; i += kWarp) {
    const float s = scores[i], ds = dlogits[i];
    float d = is_softmax ? s * (ds - dot) : ds * s * (1.0f - s);
    if (p.z_scale != 0.0f) d = __fmaf_rn(z_factor, Exp(logits[i] - log_sum_exp), d);
    dlogits[i] = d;
  }
}

__global__ void __launch_bounds__(kWarps* kWarp)
    router_backward_kernel(const BackwardParameters p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (token >= p.tokens) return;
  const int experts = p.config.num_experts;
  const int64_t sequence = SequenceOf(p, token);
  const float length = static_cast<float>(p.starts[sequence + 1] - p.starts[sequence]);
  const float per_token = p.balance_scale / length;
  const float *scores = p.scores[token], *load = p.load[sequence];
  float* dlogits = p.dlogits[token];
  // sum_i c_i score_i / sum_j score_j, with c the coefficients of both balance losses.
  float sum = 0.0f, weighted = 0.0f;
  for (int i = lane; i < experts; i += kWarp) {
    float c = per_token * load[i];
    if (p.global_load_scale != nullptr) c += p.global_load_scale[i];
    sum += scores[i];
    weighted = __fmaf_rn(c, scores[i], weighted);
    dlogits[i] = c;
  }
  sum = WarpReduce<Sum>(sum);
  const float mean = WarpReduce<Sum>(weighted) / sum;
  for (int i = lane; i < experts; i += kWarp) dlogits[i] = (dlogits[i] - mean) / sum;
  __syncwarp();
  ThroughWeights(p, token, dlogits);
  __syncwarp();
  ThroughScores(p, token, dlogits);
}

}  // namespace

void Route(Stream& stream, const RouteArgs& args) {
  CHECK_LE(args.config.num_experts, kMostExperts);
  const RouteParameters p = {
      .config = args.config,
      .logits = RowsOf<float>(args.logits),
      .bias = static_cast<const float*>(args.bias.raw_data()),
      .scores = MutableRowsOf<float>(args.scores),
      .expert_of = MutableRowsOf<int32_t>(args.expert_of),
      .weights = MutableRowsOf<float>(args.weights),
      .counts = static_cast<unsigned long long*>(args.counts.raw_mutable_data()),  // NOLINT
      .tokens = args.logits.extent(0)};
  const auto floats = static_cast<size_t>(kWarps * (args.config.num_experts + args.config.n_group));
  Launch(stream,
         {.blocks = CeilDiv(p.tokens, kWarps),
          .threads = kWarps * kWarp,
          .shared_bytes = floats * sizeof(float)},
         route_kernel, p);
}

void BalanceLoss(Stream& stream, const BalanceLossArgs& args) {
  const int experts = args.config.num_experts;
  CHECK_LE(experts, kMostExperts);
  const int64_t tokens = args.logits.extent(0);
  auto* scratch = static_cast<double*>(args.scratch.raw_mutable_data());
  const auto words = static_cast<int>(CeilDiv(experts, kWarp));
  const BalanceParameters p = {
      .config = args.config,
      .logits = RowsOf<float>(args.logits),
      .scores = RowsOf<float>(args.scores),
      .starts = args.starts.data<int32_t>(),
      .load = MutableRowsOf<float>(args.load),
      .balance = args.balance.mutable_data<double>(),
      .z = args.z.mutable_data<double>(),
      .tokens = tokens,
      .shares = scratch,
      .z_of_token = scratch + tokens * experts,
      .chosen = reinterpret_cast<uint32_t*>(scratch + tokens * (experts + 1)),
      .words = words};
  Launch(stream, {.blocks = CeilDiv(tokens, kWarps), .threads = kWarps * kWarp},
         balance_of_token_kernel, p);
  const int threads = words * kWarp < kBalanceThreads ? words * kWarp : kBalanceThreads;
  Launch(stream,
         {.blocks = args.starts.extent(0) - 1,
          .threads = static_cast<unsigned>(2 * threads + kWarp),
          .shared_bytes = experts * (sizeof(double) + sizeof(int))},
         balance_loss_kernel, p);
}

void RouterBackward(Stream& stream, const RouterBackwardArgs& args) {
  const BackwardParameters p = {
      .config = args.config,
      .logits = RowsOf<float>(args.logits),
      .scores = RowsOf<float>(args.scores),
      .expert_of = RowsOf<int32_t>(args.expert_of),
      .dweights = RowsOf<float>(args.dweights),
      .starts = args.starts.data<int32_t>(),
      .load = RowsOf<float>(args.load),
      .dlogits = MutableRowsOf<float>(args.dlogits),
      .balance_scale = args.balance_scale,
      .z_scale = args.z_scale,
      .global_load_scale = static_cast<const float*>(args.global_load_scale.raw_data()),
      .tokens = args.logits.extent(0),
      .sequences = args.starts.extent(0) - 1};
  Launch(stream, {.blocks = CeilDiv(p.tokens, kWarps), .threads = kWarps * kWarp},
         router_backward_kernel, p);
}

}  // namespace sluice::kernels::cuda
