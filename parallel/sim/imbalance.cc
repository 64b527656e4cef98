#include "parallel/sim/imbalance.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "kernels/core/check.h"

namespace sluice::parallel {
namespace {

constexpr int kDraws = 512;

// splitmix64 (Steele et al. 2014): an even hash of a counter.
uint64_t Hash(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

double Uniform(uint64_t counter) {  // in (0, 1)
  return (static_cast<double>(Hash(counter) >> 11) + 0.5) * 0x1p-53;
}

double Normal(uint64_t counter) {  // Box-Muller
  return std::sqrt(-2 * std::log(Uniform(2 * counter))) *
         std::cos(2 * std::numbers::pi * Uniform(2 * counter + 1));
}

template <typename T>
double WorstOfRuns(const std::vector<T>& loads, int members) {
  const size_t each = loads.size() / members;
  double total = 0, worst = 0;
  for (int member = 0; member < members; ++member) {
    double mine = 0;
    for (size_t e = member * each; e < (member + 1) * each; ++e)
      mine += static_cast<double>(loads[e]);
    worst = std::max(worst, mine);
    total += mine;
  }
  return total > 0 ? worst * members / total : 1.0;
}

}  // namespace

double WorstOverMean(const std::vector<int64_t>& rows, int members) {
  CHECK(members > 0 && rows.size() % members == 0) << rows.size() << " experts, " << members;
  return WorstOfRuns(rows, members);
}

Imbalance Imbalance::Balanced() { return Imbalance({1.0}); }

Imbalance Imbalance::FromDistribution(int experts, int members, double cv) {
  if (experts < 1 || members <= 1 || cv <= 0) return Balanced();
  const double sigma = std::sqrt(std::log1p(cv * cv));
  std::vector<double> draws, loads(experts);
  for (int i = 0; i < kDraws; ++i) {
    for (int e = 0; e < experts; ++e)
      loads[e] = std::exp(sigma * Normal(static_cast<uint64_t>(i) * experts + e));
    draws.push_back(WorstOfRuns(loads, members));
  }
  std::sort(draws.begin(), draws.end());
  return Imbalance(std::move(draws));
}

Imbalance Imbalance::FromTrace(const RouteTrace& trace, int members) {
  std::vector<double> draws;
  for (const RouteCounts& counts : trace) draws.push_back(WorstOverMean(counts.rows, members));
  if (draws.empty()) return Balanced();
  std::sort(draws.begin(), draws.end());
  return Imbalance(std::move(draws));
}

double Imbalance::Quantile(double q) const {
  const double place = std::clamp(q, 0.0, 1.0) * static_cast<double>(sorted_.size() - 1);
  const size_t below = static_cast<size_t>(place), above = std::min(below + 1, sorted_.size() - 1);
  const double share = place - static_cast<double>(below);
  return sorted_[below] * (1 - share) + sorted_[above] * share;
}

double Imbalance::mean() const {
  return std::accumulate(sorted_.begin(), sorted_.end(), 0.0) / static_cast<double>(sorted_.size());
}

double Imbalance::Draw(int group, int stage, int microbatch, int layers) const {
  if (sorted_.size() == 1 || layers < 1) return sorted_[0];
  double sum = 0;
  for (int layer = 0; layer < layers; ++layer) {
    const uint64_t place = ((static_cast<uint64_t>(group) * 4096 + stage) << 32) +
                           (static_cast<uint64_t>(microbatch) << 12) + layer;
    sum += sorted_[Hash(place) % sorted_.size()];
  }
  return sum / layers;
}

RowFactors Imbalance::Factors(std::vector<int> layers_of_stage) const {
  if (sorted_.size() == 1 && sorted_[0] == 1.0) return {};
  RowFactors factors;
  factors.worst = [draws = *this, layers = std::move(layers_of_stage)](int group, int stage,
                                                                       int microbatch) {
    return draws.Draw(group, stage, microbatch, layers[stage]);
  };
  return factors;
}

}  // namespace sluice::parallel
