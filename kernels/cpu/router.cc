#include "kernels/cpu/router.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/op_table.h"

#define SLUICE_TARGET_FILE "kernels/cpu/router-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

RouterTable RouterTableOf(Target target) { return SLUICE_TABLE_OF(kRouterTable, target); }

namespace {

constexpr float kNormEps = 1e-20f;  // of DeepSeek's released gate

// Writes the indices of the `top` largest of x[0, n) to `to`, largest first, ties to the lower
// index. Always `top` different indices, whatever x holds.
void TopK(const float* x, int64_t n, int64_t top, int32_t* to) {
  int64_t held = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (held == top && !(x[i] > x[to[held - 1]])) continue;
    int64_t place = held < top ? held++ : held - 1;
    for (; place > 0 && x[i] > x[to[place - 1]]; --place) to[place] = to[place - 1];
    to[place] = static_cast<int32_t>(i);
  }
}

// Grow-only memory of one thread.
struct Selection {
  std::vector<float> scores, group_scores;
  std::vector<int32_t> groups, experts;

  void Reserve(const RouterConfig& config) {
    const auto experts_count = static_cast<size_t>(config.num_experts);
    if (scores.size() < experts_count) scores.resize(experts_count);
    if (experts.size() < experts_count) experts.resize(experts_count);
    const auto group_count = static_cast<size_t>(config.n_group);
    if (groups.size() < group_count) groups.resize(group_count);
    if (group_scores.size() < group_count) group_scores.resize(group_count);
  }
};

Selection& ThreadSelection(const RouterConfig& config) {
  thread_local Selection selection;
  selection.Reserve(config);
  return selection;
}

// Sets the selection scores of all but the best groups to config.dropped_score.
void MaskGroups(const RouterConfig& config, Selection& selection) {
  const int64_t size = config.num_experts / config.n_group;
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  for (int64_t g = 0; g < config.n_group; ++g) {
    const float* x = selection.scores.data() + g * size;
    float first = x[0], second = kMinusInfinity;
    for (int64_t i = 1; i < size; ++i) {
      second = x[i] > first ? first : std::max(second, x[i]);
      first = std::max(first, x[i]);
    }
    const bool both = config.group_score == GroupScore::kTopTwoSum && size > 1;
    selection.group_scores[static_cast<size_t>(g)] = both ? first + second : first;
  }
  TopK(selection.group_scores.data(), config.n_group, config.topk_group, selection.groups.data());
  std::sort(selection.groups.begin(), selection.groups.begin() + config.topk_group);
  int64_t next = 0;
  for (int64_t g = 0; g < config.n_group; ++g) {
    if (next < config.topk_group && selection.groups[static_cast<size_t>(next)] == g) {
      ++next;
    } else {
      std::fill_n(selection.scores.begin() + g * size, size, config.dropped_score);
    }
  }
}

// expert_of and weights of token t from its scores.
void SelectExperts(const RouteArgs& args, int64_t t, Selection& selection) {
  const RouterConfig& config = args.config;
  const float* scores = args.scores.data<float>() + t * args.scores.row_stride();
  const float* bias = args.bias.is_null() ? nullptr : args.bias.data<float>();
  for (int64_t i = 0; i < config.num_experts; ++i) {
    selection.scores[static_cast<size_t>(i)] = bias == nullptr ? scores[i] : scores[i] + bias[i];
  }
  if (config.group_score != GroupScore::kNone) MaskGroups(config, selection);
  const int64_t top = config.experts_per_token;
  int32_t* experts = args.expert_of.mutable_data<int32_t>() + t * args.expert_of.row_stride();
  TopK(selection.scores.data(), config.num_experts, top, experts);
  std::sort(experts, experts + top);
  float sum = 0.0f;
  for (int64_t k = 0; k < top; ++k) sum += scores[experts[k]];
  float* weights = args.weights.mutable_data<float>() + t * args.weights.row_stride();
  for (int64_t k = 0; k < top; ++k) {
    const float weight = config.routed_scaling_factor * scores[experts[k]];
    weights[k] = config.norm_topk_prob ? weight / (sum + kNormEps) : weight;
  }
}

// balance[s], z[s] and load[s] of one sequence.
void BalanceOfSequence(const BalanceLossArgs& args, int64_t s) {
  const int64_t experts = args.config.num_experts, top = args.config.experts_per_token;
  const int32_t* starts = args.starts.data<int32_t>();
  const int64_t begin = starts[s], end = starts[s + 1];
  thread_local std::vector<double> share;
  if (share.size() < static_cast<size_t>(experts)) share.resize(static_cast<size_t>(experts));
  std::fill_n(share.begin(), experts, 0.0);
  Selection& selection = ThreadSelection(args.config);
  float* load = args.load.mutable_data<float>() + s * args.load.row_stride();
  std::fill_n(load, experts, 0.0f);
  const auto log_sum_exp = Table().router.log_sum_exp;
  double z = 0.0;
  for (int64_t t = begin; t < end; ++t) {
    const float* scores = args.scores.data<float>() + t * args.scores.row_stride();
    double sum = 0.0;
    for (int64_t i = 0; i < experts; ++i) sum += static_cast<double>(scores[i]);
    const double inverse = 1.0 / sum;
    for (int64_t i = 0; i < experts; ++i) {
      share[static_cast<size_t>(i)] += static_cast<double>(scores[i]) * inverse;
    }
    TopK(scores, experts, top, selection.experts.data());
    for (int64_t k = 0; k < top; ++k) load[selection.experts[static_cast<size_t>(k)]] += 1.0f;
    const double of_token = static_cast<double>(
        log_sum_exp(args.logits.data<float>() + t * args.logits.row_stride(), experts));
    z += of_token * of_token;
  }
  const double length = static_cast<double>(end - begin);
  double balance = 0.0;
  for (int64_t i = 0; begin < end && i < experts; ++i) {
    const double f = static_cast<double>(experts) * static_cast<double>(load[i]) /
                     (static_cast<double>(top) * length);
    balance += f * (share[static_cast<size_t>(i)] / length);
    load[i] = static_cast<float>(f);
  }
  args.balance.mutable_data<double>()[s] = balance;
  args.z.mutable_data<double>()[s] = z;
}

}  // namespace

void Route(ThreadPool& pool, const RouteArgs& args) {
  const int64_t tokens = args.logits.extent(0), experts = args.config.num_experts;
  const auto score = Table().router.scores;
  pool.ParallelRanges(tokens, std::max<int64_t>(1, kElementsPerTask / (4 * experts)),
                      [&](int64_t begin, int64_t end) {
                        score(args, begin, end);
                        Selection& selection = ThreadSelection(args.config);
                        for (int64_t t = begin; t < end; ++t) SelectExperts(args, t, selection);
                      });
  int64_t* counts = args.counts.mutable_data<int64_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* experts_of_t = args.expert_of.data<int32_t>() + t * args.expert_of.row_stride();
    for (int64_t k = 0; k < args.config.experts_per_token; ++k) ++counts[experts_of_t[k]];
  }
}

void BalanceLoss(ThreadPool& pool, const BalanceLossArgs& args) {
  pool.ParallelFor(args.starts.extent(0) - 1, [&](int64_t s) { BalanceOfSequence(args, s); });
}

void RouterBackward(ThreadPool& pool, const RouterBackwardArgs& args) {
  const int64_t tokens = args.logits.extent(0), experts = args.config.num_experts;
  const int64_t sequences = args.starts.extent(0) - 1;
  const auto backward = Table().router.backward;
  const int32_t* starts = args.starts.data<int32_t>();
  pool.ParallelRanges(tokens, std::max<int64_t>(1, kElementsPerTask / (4 * experts)),
                      [&](int64_t begin, int64_t end) {
                        for (int64_t s = 0; s < sequences; ++s) {
                          const int64_t first = std::max<int64_t>(begin, starts[s]);
                          const int64_t last = std::min<int64_t>(end, starts[s + 1]);
                          if (first < last) backward(args, s, first, last);
                        }
                      });
}

}  // namespace sluice::kernels::cpu
