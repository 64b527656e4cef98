// How unevenly tokens fall on the ranks of an expert group: from a distribution, or from counts
// that a run recorded.   E experts, M members of the group
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/sim/simulate.h"

namespace sluice::parallel {

// Loads of one MoE layer in one step: how many rows each expert got.
struct RouteCounts {
  int64_t step = 0;
  int layer = 0;
  std::vector<int64_t> rows;  // [E]
};
using RouteTrace = std::vector<RouteCounts>;

// The fullest member's rows over the mean; experts lie in equal runs on the members, as
// parallel/expert places them. 1 when nothing was routed.
double WorstOverMean(const std::vector<int64_t>& rows, int members);

// Draws of "fullest member over mean" of one MoE layer.
class Imbalance {
 public:
  // Every draw is 1.
  static Imbalance Balanced();
  // An expert's load is lognormal around the mean with coefficient of variation `cv`, independent
  // of the others. Deterministic in its arguments.
  static Imbalance FromDistribution(int experts, int members, double cv);
  // One draw a row of the trace. An empty trace is balanced.
  static Imbalance FromTrace(const RouteTrace& trace, int members);

  double Quantile(double q) const;  // q of 0 to 1
  double mean() const;
  // The mean of `layers` draws, the same for equal arguments: a chunk waits in each of its layers.
  double Draw(int group, int stage, int microbatch, int layers) const;
  // For a simulation of stages that hold `layers_of_stage` MoE layers each.
  RowFactors Factors(std::vector<int> layers_of_stage) const;

 private:
  explicit Imbalance(std::vector<double> sorted) : sorted_(std::move(sorted)) {}
  std::vector<double> sorted_;  // ascending
};

}  // namespace sluice::parallel
