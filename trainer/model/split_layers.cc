// Where the layers are cut into stages.
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "trainer/model/model_config.h"

namespace sluice::trainer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Floating-point operations of layers [begin, end) with the head where it belongs to them.
class LayerCosts {
 public:
  LayerCosts(const ModelConfig& config, int64_t sequence_length) : before_(1, 0.0) {
    const FlopsPerToken flops = ForwardFlops(config, sequence_length);
    for (int i = 0; i < config.num_hidden_layers(); ++i) {
      before_.push_back(before_.back() + flops.attention +
                        (IsMoe(config, i) ? flops.moe : flops.dense_mlp));
    }
    head_ = flops.head + flops.mtp;
  }
  int num_layers() const { return static_cast<int>(before_.size()) - 1; }
  double Of(int begin, int end) const {
    return before_[end] - before_[begin] + (end == num_layers() ? head_ : 0.0);
  }

 private:
  std::vector<double> before_;  // [i] of layers [0, i)
  double head_ = 0;
};

// First layers of the stages. best[s][i]: the smallest possible maximum over s stages that hold
// layers [0, i); cut[s][i]: where the last begins.
std::vector<int> CutAlone(const LayerCosts& costs, int num_stages) {
  const int layers = costs.num_layers();
  std::vector<std::vector<double>> best(num_stages + 1, std::vector<double>(layers + 1, kInfinity));
  std::vector<std::vector<int>> cut(num_stages + 1, std::vector<int>(layers + 1, 0));
  best[0][0] = 0;
  for (int s = 1; s <= num_stages; ++s) {
    for (int end = s; end <= layers; ++end) {
      for (int begin = s - 1; begin < end; ++begin) {
        const double worst = std::max(best[s - 1][begin], costs.Of(begin, end));
        if (worst < best[s][end]) {
          best[s][end] = worst;
          cut[s][end] = begin;
        }
      }
    }
  }
  std::vector<int> first(num_stages);
  for (int s = num_stages, end = layers; s > 0; --s) end = first[s - 1] = cut[s][end];
  return first;
}

// The same where stages s and S - 1 - s share a rank, from the outermost pair inwards: a state is
// that pairs hold layers [0, i) and [j, L).
class FoldedCut {
 public:
  FoldedCut(const LayerCosts& costs, int num_stages)
      : costs_(costs), num_pairs_(num_stages / 2), layers_(costs.num_layers()) {}

  std::vector<int> Run() {
    std::vector<std::vector<State>> states(num_pairs_ + 1,
                                           std::vector<State>((layers_ + 1) * (layers_ + 1)));
    At(states[0], 0, layers_).worst = {0, 0};
    for (int pair = 0; pair < num_pairs_; ++pair) {
      for (int i = 0; i <= layers_; ++i) {
        for (int j = i; j <= layers_; ++j) AddPair(pair, i, j, states);
      }
    }
    int i = 0, j = 0;
    for (int middle = 0; middle <= layers_; ++middle) {
      if (At(states[num_pairs_], middle, middle).worst < At(states[num_pairs_], i, j).worst) {
        i = j = middle;
      }
    }
    std::vector<int> first(2 * num_pairs_);
    for (int pair = num_pairs_; pair > 0; --pair) {
      const State& state = At(states[pair], i, j);
      first[pair - 1] = state.before_i;
      first[2 * num_pairs_ - pair] = j;
      i = state.before_i;
      j = state.before_j;
    }
    return first;
  }

 private:
  struct State {
    // The slowest rank; where those are equal, the sum of squares over stages.
    std::pair<double, double> worst = {kInfinity, kInfinity};
    int before_i = 0, before_j = 0;
  };
  State& At(std::vector<State>& states, int i, int j) const {
    return states[i * (layers_ + 1) + j];
  }

  void AddPair(int pair, int i, int j, std::vector<std::vector<State>>& states) const {
    const auto worst = At(states[pair], i, j).worst;
    if (worst.first == kInfinity) return;
    const int inside = num_pairs_ - pair - 1;  // pairs that still come
    for (int next_i = i + 1; next_i + inside <= j; ++next_i) {
      // The innermost pair leaves nothing between its stages.
      for (int next_j = inside > 0 ? j - 1 : next_i; next_j < j && next_j - next_i >= 2 * inside;
           --next_j) {
        const double left = costs_.Of(i, next_i), right = costs_.Of(next_j, j);
        const std::pair<double, double> now = {std::max(worst.first, left + right),
                                               worst.second + left * left + right * right};
        State& state = At(states[pair + 1], next_i, next_j);
        if (now < state.worst) state = {now, i, j};
      }
    }
  }

  const LayerCosts& costs_;
  const int num_pairs_, layers_;
};

}  // namespace

absl::StatusOr<std::vector<StageSpec>> SplitLayers(const ModelConfig& config, int num_stages,
                                                   int64_t sequence_length,
                                                   StagePlacement placement) {
  const int layers = config.num_hidden_layers();
  if (num_stages < 1 || num_stages > layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("pipeline stages (mesh.pipe * schedule_chunks): found ", num_stages,
                     ", wanted 1 to model.num_hidden_layers = ", layers));
  }
  const LayerCosts costs(config, sequence_length);
  const bool folded = placement == StagePlacement::kFolded && num_stages % 2 == 0;
  std::vector<int> first =
      folded ? FoldedCut(costs, num_stages).Run() : CutAlone(costs, num_stages);
  first.push_back(layers);
  std::vector<StageSpec> stages;
  for (int s = 0; s < num_stages; ++s) {
    stages.push_back({first[s], first[s + 1] - first[s], s == 0, s + 1 == num_stages});
  }
  return stages;
}

}  // namespace sluice::trainer
