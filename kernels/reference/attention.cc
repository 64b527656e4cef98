#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

namespace {

// One query of one head: which tokens it sees and where its rows lie.
struct Query {
  int64_t token, first_key, head, kv_head;
};

template <typename Body>
void ForEachQuery(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& starts,
                  const Body& body) {
  const int64_t heads = q.extent(1), heads_per_kv = heads / std::max<int64_t>(1, k.extent(1));
  for (int64_t s = 0; s + 1 < starts.extent(0); ++s) {
    for (int64_t t = Index(starts, s); t < Index(starts, s + 1); ++t) {
      for (int64_t a = 0; a < heads; ++a) body(Query{t, Index(starts, s), a, a / heads_per_kv});
    }
  }
}

double Dot(const ConstTensorView& a, int64_t row_a, int64_t head_a, const ConstTensorView& b,
           int64_t row_b, int64_t head_b) {
  const int64_t width = a.extent(2);
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) {
    sum += Get(a, row_a, head_a * width + d) * Get(b, row_b, head_b * width + d);
  }
  return sum;
}

void Store(const std::vector<double>& from, const TensorView& to) {
  const int64_t width = to.shape().elements_per_row();
  for (int64_t r = 0; r < to.extent(0); ++r) {
    for (int64_t c = 0; c < width; ++c) Set(to, from[static_cast<size_t>(r * width + c)], r, c);
  }
}

}  // namespace

void Attention(const AttentionArgs& args) {
  const int64_t v_width = args.v.extent(2);
  ForEachQuery(args.q, args.k, args.starts, [&](const Query& query) {
    std::vector<double> scores;
    for (int64_t j = query.first_key; j <= query.token; ++j) {
      scores.push_back(args.scale * Dot(args.q, query.token, query.head, args.k, j, query.kv_head));
    }
    const double most = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double score : scores) sum += std::exp(score - most);
    Set(args.log_sum_exp, most + std::log(sum), query.token, query.head);
    for (int64_t d = 0; d < v_width; ++d) {
      double o = 0;
      for (int64_t j = query.first_key; j <= query.token; ++j) {
        const double p = std::exp(scores[static_cast<size_t>(j - query.first_key)] - most) / sum;
        o += p * Get(args.v, j, query.kv_head * v_width + d);
      }
      Set(args.o, o, query.token, query.head * v_width + d);
    }
  });
}

// With p = softmax(s) and o = sum_j p_j v_j:  dp_j = do . v_j,  ds_j = p_j (dp_j - do . o).
void AttentionBackward(const AttentionBackwardArgs& args) {
  const int64_t width = args.q.extent(2), v_width = args.v.extent(2);
  std::vector<double> dq(static_cast<size_t>(args.q.num_elements()));
  std::vector<double> dk(static_cast<size_t>(args.k.num_elements()));
  std::vector<double> dv(static_cast<size_t>(args.v.num_elements()));
  const auto at = [](std::vector<double>& x, const ConstTensorView& view, int64_t t, int64_t head,
                     int64_t d) -> double& {
    return x[static_cast<size_t>((t * view.extent(1) + head) * view.extent(2) + d)];
  };
  ForEachQuery(args.q, args.k, args.starts, [&](const Query& query) {
    const int64_t t = query.token, a = query.head, g = query.kv_head;
    const double delta = Dot(args.dout, t, a, args.o, t, a);
    for (int64_t j = query.first_key; j <= t; ++j) {
      const double p =
          std::exp(args.scale * Dot(args.q, t, a, args.k, j, g) - Get(args.log_sum_exp, t, a));
      const double ds = args.scale * p * (Dot(args.dout, t, a, args.v, j, g) - delta);
      for (int64_t d = 0; d < width; ++d) {
        at(dq, args.q, t, a, d) += ds * Get(args.k, j, g * width + d);
        at(dk, args.k, j, g, d) += ds * Get(args.q, t, a * width + d);
      }
      for (int64_t d = 0; d < v_width; ++d) {
        at(dv, args.v, j, g, d) += p * Get(args.dout, t, a * v_width + d);
      }
    }
  });
  Store(dq, args.dq);
  Store(dk, args.dk);
  Store(dv, args.dv);
}

}  // namespace sluice::kernels::reference
