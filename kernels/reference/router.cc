#include "kernels/reference/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

namespace {

constexpr double kNormEps = 1e-20;  // of DeepSeek's released gate

using Row = std::vector<double>;

Row ReadRow(const ConstTensorView& view, int64_t t) {
  Row row(static_cast<size_t>(view.extent(1)));
  for (size_t i = 0; i < row.size(); ++i) row[i] = Get(view, t, static_cast<int64_t>(i));
  return row;
}

double LogSumExp(const Row& x) {
  const double most = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double value : x) sum += std::exp(value - most);
  return most + std::log(sum);
}

// Indices of the k largest, in descending order of value, ties to the lower index.
std::vector<int64_t> TopK(const Row& x, int k) {
  std::vector<int64_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(k));
  return order;
}

void MaskGroups(const RouterConfig& config, Row& selection) {
  if (config.group_score == GroupScore::kNone) return;
  const size_t groups = static_cast<size_t>(config.n_group), size = selection.size() / groups;
  Row group_scores;
  for (size_t g = 0; g < groups; ++g) {
    Row group(selection.begin() + static_cast<int64_t>(g * size),
              selection.begin() + static_cast<int64_t>((g + 1) * size));
    std::sort(group.rbegin(), group.rend());
    const bool both = config.group_score == GroupScore::kTopTwoSum && size > 1;
    group_scores.push_back(both ? group[0] + group[1] : group[0]);
  }
  std::vector<bool> keep(groups, false);
  for (int64_t g : TopK(group_scores, config.topk_group)) keep[static_cast<size_t>(g)] = true;
  for (size_t i = 0; i < selection.size(); ++i) {
    if (!keep[i / size]) selection[i] = static_cast<double>(config.dropped_score);
  }
}

}  // namespace

void Route(const RouteArgs& args) {
  const RouterConfig& config = args.config;
  for (int64_t t = 0; t < args.logits.extent(0); ++t) {
    const Row logits = ReadRow(args.logits, t);
    const bool softmax = config.scoring_func == ScoringFunc::kSoftmax;
    const double log_sum_exp = LogSumExp(logits);
    Row selection;
    for (int64_t i = 0; i < config.num_experts; ++i) {
      const double x = logits[static_cast<size_t>(i)];
      Set(args.scores, softmax ? std::exp(x - log_sum_exp) : 1.0 / (1.0 + std::exp(-x)), t, i);
      selection.push_back(Get(args.scores, t, i) + (args.bias.is_null() ? 0.0 : Get(args.bias, i)));
    }
    MaskGroups(config, selection);
    std::vector<int64_t> experts = TopK(selection, config.experts_per_token);
    std::sort(experts.begin(), experts.end());
    double sum = 0;
    for (int64_t i : experts) sum += Get(args.scores, t, i);
    const double divisor = config.norm_topk_prob ? sum + kNormEps : 1.0;
    for (size_t k = 0; k < experts.size(); ++k) {
      const int64_t i = experts[k], column = static_cast<int64_t>(k);
      args.expert_of.mutable_data<int32_t>()[t * args.expert_of.row_stride() + column] =
          static_cast<int32_t>(i);
      Set(args.weights, config.routed_scaling_factor * Get(args.scores, t, i) / divisor, t, column);
      ++args.counts.mutable_data<int64_t>()[i];
    }
  }
}

void BalanceLoss(const BalanceLossArgs& args) {
  const int64_t experts = args.config.num_experts;
  for (int64_t s = 0; s + 1 < args.starts.extent(0); ++s) {
    const int64_t begin = Index(args.starts, s), end = Index(args.starts, s + 1);
    const double length = static_cast<double>(end - begin);
    Row count(static_cast<size_t>(experts)), share(static_cast<size_t>(experts));
    double z = 0;
    for (int64_t t = begin; t < end; ++t) {
      const Row scores = ReadRow(args.scores, t);
      const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
      for (size_t i = 0; i < scores.size(); ++i) share[i] += scores[i] / sum / length;
      for (int64_t i : TopK(scores, args.config.experts_per_token)) ++count[static_cast<size_t>(i)];
      const double log_sum_exp = LogSumExp(ReadRow(args.logits, t));
      z += log_sum_exp * log_sum_exp;
    }
    double balance = 0;
    for (int64_t i = 0; i < experts; ++i) {
      const double per_count =
          end == begin ? 0.0
                       : static_cast<double>(experts) / (args.config.experts_per_token * length);
      Set(args.load, per_count * count[static_cast<size_t>(i)], s, i);
      balance += per_count * count[static_cast<size_t>(i)] * share[static_cast<size_t>(i)];
    }
    Set(args.balance, balance, s);
    Set(args.z, z, s);
  }
}

void RouterBackward(const RouterBackwardArgs& args) {
  const RouterConfig& config = args.config;
  const int64_t num_experts = config.num_experts;
  for (int64_t s = 0; s + 1 < args.starts.extent(0); ++s) {
    const int64_t begin = Index(args.starts, s), end = Index(args.starts, s + 1);
    for (int64_t t = begin; t < end; ++t) {
      const Row scores = ReadRow(args.scores, t), logits = ReadRow(args.logits, t);
      Row dscores(scores.size());
      // weight_k = scaling * score_k / (sum of the K scores + eps)
      double selected = kNormEps, weighted = 0;
      for (int64_t k = 0; k < config.experts_per_token; ++k) {
        const size_t i = static_cast<size_t>(Index(args.expert_of, t, k));
        selected += scores[i];
        weighted += Get(args.dweights, t, k) * scores[i];
      }
      for (int64_t k = 0; k < config.experts_per_token; ++k) {
        const size_t i = static_cast<size_t>(Index(args.expert_of, t, k));
        const double dweight = Get(args.dweights, t, k);
        dscores[i] +=
            config.routed_scaling_factor *
            (config.norm_topk_prob ? (dweight - weighted / selected) / selected : dweight);
      }
      // sum_i c_i score_i / sum_j score_j, with c the coefficients of both balance losses
      const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
      Row coefficients(scores.size());
      double mean = 0;
      for (size_t i = 0; i < scores.size(); ++i) {
        const int64_t column = static_cast<int64_t>(i);
        coefficients[i] =
            args.balance_scale / static_cast<double>(end - begin) * Get(args.load, s, column);
        if (!args.global_load_scale.is_null()) {
          coefficients[i] += Get(args.global_load_scale, column);
        }
        mean += coefficients[i] * scores[i] / sum;
      }
      double dot = 0;
      for (size_t i = 0; i < scores.size(); ++i) {
        dscores[i] += (coefficients[i] - mean) / sum;
        dot += dscores[i] * scores[i];
      }
      const double log_sum_exp = LogSumExp(logits);
      for (int64_t i = 0; i < num_experts; ++i) {
        const size_t e = static_cast<size_t>(i);
        const double through_score = config.scoring_func == ScoringFunc::kSoftmax
                                         ? scores[e] * (dscores[e] - dot)
                                         : dscores[e] * scores[e] * (1.0 - scores[e]);
        const double softmax = std::exp(logits[e] - log_sum_exp);
        Set(args.dlogits, through_score + args.z_scale * 2.0 * log_sum_exp * softmax, t, i);
      }
    }
  }
}

}  // namespace sluice::kernels::reference
