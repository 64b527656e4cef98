// The gradient of every named tensor of whole models against finite differences of the loss that
// TrainStep says it descends: main + lambda MTP + balance + aux + z, all times the number of
// targets.
//
// Two directions a tensor, each of unit length: the gradient's own, every element weighted by a
// random number in [0, 2] (a large derivative: a wrong factor shows even under rounding), and a
// normal one (which any wrong element moves). With D(h) = (L(w + h d) - L(w - h d)) / 2h, the
// extrapolation (4 D(h) - D(2h)) / 3 has an error of O(h^4); a tenth of |D(h) - D(2h)|, which is
// O(h^2), is allowed for it.
//
// Rounding: L is a sum over 26 targets (and MTP's) of FP32 losses near log 31 = 3.4, each after a
// forward of a few dozen roundings of 2^-24 relative, sqrt(25) = 5 of them in effect: 3.4 * 5 *
// 2^-24 = 1e-6 a token with a random sign, 1e-6 sqrt(2 * 26) = 7e-6 in sum. (Found: a quarter of
// that.) The extrapolation multiplies it by at most (4 / h + 1 / 2h) / 3 = 1.5 / h. The analytic
// gradient is itself FP32: 1e-4 of its size is allowed; its norm over sqrt(N) for the normal
// direction, whose derivative has that size.
//
// Routes are constants for the gradient, so a step must not change one: h shrinks until none does.
// The balance loss counts the K largest *raw* scores; these are the routes that are watched only
// without a selection bias and without groups, so cases with either have no balance loss.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <set>

#include "kernels/core/philox.h"
#include "tests/trainer/one_rank.h"

namespace sluice::trainer {
namespace {

constexpr double kNoise = 7e-6;

struct Case {
  const char* name;
  std::function<void(RunConfig&)> change;
};

void UseGqa(RunConfig& config, const char* qk_norm) {
  ModelConfig& m = *config.mutable_model();
  m.set_kv_lora_rank(0);
  m.set_num_attention_heads(4);
  m.set_num_key_value_heads(2);
  m.set_head_dim(6);
  m.set_qk_norm(qk_norm);
}

void UseLora(RunConfig& config, double dropout) {
  config.mutable_finetune()->set_mode("lora");
  LoraConfig& lora = *config.mutable_finetune()->mutable_lora();
  lora.set_rank(3);
  lora.set_alpha(4);
  lora.set_dropout(dropout);
}

const Case kCases[] = {
    {"mla_q_lora", [](RunConfig& /*c*/) {}},
    {"mla_q_direct", [](RunConfig& c) { c.mutable_model()->set_q_lora_rank(0); }},
    {"gqa_head_norm", [](RunConfig& c) { UseGqa(c, "head"); }},
    {"gqa_full_norm", [](RunConfig& c) { UseGqa(c, "full"); }},
    {"gqa_no_norm_one_key_head",
     [](RunConfig& c) {
       UseGqa(c, "none");
       c.mutable_model()->set_num_key_value_heads(1);
     }},
    {"softmax_greedy_unnormalised",
     [](RunConfig& c) {
       c.mutable_model()->set_topk_method("greedy");
       c.mutable_model()->set_scoring_func("softmax");
       c.mutable_model()->set_norm_topk_prob(false);
     }},
    {"softmax_greedy_normalised",
     [](RunConfig& c) {
       c.mutable_model()->set_topk_method("greedy");
       c.mutable_model()->set_scoring_func("softmax");
     }},
    {"sigmoid_unnormalised", [](RunConfig& c) { c.mutable_model()->set_norm_topk_prob(false); }},
    {"group_limited_greedy",
     [](RunConfig& c) {
       ModelConfig& m = *c.mutable_model();
       m.set_topk_method("group_limited_greedy");
       m.set_scoring_func("softmax");
       m.set_norm_topk_prob(false);
       m.set_aux_loss_alpha(0);
       m.set_n_routed_experts(6);
       m.set_n_group(3);
       m.set_topk_group(2);
     }},
    {"noaux_tc_groups",
     [](RunConfig& c) {
       ModelConfig& m = *c.mutable_model();
       m.set_aux_loss_alpha(0);
       m.set_n_routed_experts(6);
       m.set_n_group(3);
       m.set_topk_group(2);
     }},
    {"selection_bias", [](RunConfig& c) { c.mutable_model()->set_aux_loss_alpha(0); }},
    {"global_load_softmax",
     [](RunConfig& c) {
       ModelConfig& m = *c.mutable_model();
       m.set_topk_method("greedy");
       m.set_scoring_func("softmax");
       m.set_router_aux_loss_coef(0.3);
       m.set_aux_loss_alpha(0);
     }},
    {"global_load_beside_the_balance_loss_mtp_1",
     [](RunConfig& c) {
       ModelConfig& m = *c.mutable_model();
       m.set_router_aux_loss_coef(0.2);
       m.set_num_nextn_predict_layers(1);
     }},
    {"all_experts_chosen", [](RunConfig& c) { c.mutable_model()->set_num_experts_per_tok(4); }},
    {"no_shared_expert", [](RunConfig& c) { c.mutable_model()->set_n_shared_experts(0); }},
    {"two_shared_experts_no_dense_layer",
     [](RunConfig& c) {
       c.mutable_model()->set_n_shared_experts(2);
       c.mutable_model()->set_first_k_dense_replace(0);
     }},
    {"no_experts",
     [](RunConfig& c) {
       c.mutable_model()->set_n_routed_experts(0);
       c.mutable_model()->set_num_nextn_predict_layers(1);
     }},
    {"mtp_1", [](RunConfig& c) { c.mutable_model()->set_num_nextn_predict_layers(1); }},
    {"mtp_2", [](RunConfig& c) { c.mutable_model()->set_num_nextn_predict_layers(2); }},
    {"mtp_2_before_norm_document_mask",
     [](RunConfig& c) {
       c.mutable_model()->set_num_nextn_predict_layers(2);
       c.mutable_model()->set_mtp_hidden_before_norm(true);
       c.mutable_data()->set_document_mask(true);
     }},
    {"tied_embeddings_mtp_1",
     [](RunConfig& c) {
       c.mutable_model()->set_tie_word_embeddings(true);
       c.mutable_model()->set_num_nextn_predict_layers(1);
     }},
    {"document_mask", [](RunConfig& c) { c.mutable_data()->set_document_mask(true); }},
    {"some_experts_trained",
     [](RunConfig& c) {
       c.mutable_finetune()->set_mode("experts");
       LayerExperts& layer = *c.mutable_finetune()->add_layer_experts();
       layer.set_layer(1);
       layer.add_experts(0);
       layer.add_experts(2);
     }},
    {"lora_mla_mtp_1",
     [](RunConfig& c) {
       UseLora(c, 0);
       c.mutable_model()->set_num_nextn_predict_layers(1);
     }},
    {"lora_gqa_dropout",
     [](RunConfig& c) {
       UseGqa(c, "head");
       UseLora(c, 0.3);
     }},
    {"recompute_all_mtp_1",
     [](RunConfig& c) {
       c.mutable_model()->set_num_nextn_predict_layers(1);
       c.mutable_compute()->set_recompute("norm,mla_up,swiglu");
     }},
};

// Standard normal number `index` of stream `stream`.
double Normal(uint64_t stream, int64_t index) {
  const auto words =
      Philox(PhiloxKey(77, RandomPurpose::kTest), static_cast<uint64_t>(index), stream);
  return std::sqrt(-2 * std::log((words[0] + 1.0) * 0x1p-32)) *
         std::cos(2 * std::numbers::pi * words[1] * 0x1p-32);
}

double Norm(const std::vector<double>& x) {
  double squares = 0;
  for (double value : x) squares += value * value;
  return std::sqrt(squares);
}

struct Tensor {
  std::string name;
  float* master;
  std::vector<float> weight, gradient;  // before anything moves
};

class Differences {
 public:
  explicit Differences(OneRank& rank) : rank_(rank) {
    for (const auto& stage : rank.model->stages()) {
      stage->set_row_visitor(
          [this](const char* what, int layer, const MicrobatchInput& input, ConstTensorView rows) {
            if (std::string(what) != "routes") return;
            const int32_t* expert = rows.data<int32_t>();
            routes_.insert(routes_.end(), expert, expert + rows.num_elements());
            routes_.push_back(static_cast<int32_t>(layer + 1000 * input.first_sequence));
          });
    }
    (void)Loss();
    expected_routes_ = routes_;
  }

  // The sum that gradients belong to.
  double Loss() {
    rank_.Publish();
    routes_.clear();
    // Only a training step knows the load of the whole batch, and drops inputs of adapters.
    const bool trains = rank_.config.model().router_aux_loss_coef() != 0 ||
                        rank_.config.finetune().lora().dropout() > 0;
    const StepResult r = trains ? rank_.Train(0) : rank_.Evaluate();
    same_routes_ = same_routes_ && (expected_routes_.empty() || routes_ == expected_routes_);
    return static_cast<double>(r.num_targets) *
           (r.loss + rank_.config.train().mtp_loss_weight() * r.mtp_loss + r.balance_loss +
            r.aux_loss + r.z_loss);
  }
  double Slope(const Tensor& tensor, const std::vector<double>& direction, double h) {
    double loss[2], moved = 0;
    for (int side = 0; side < 2; ++side) {
      for (size_t i = 0; i < direction.size(); ++i)
        tensor.master[i] =
            static_cast<float>(tensor.weight[i] + (side == 0 ? -h : h) * direction[i]);
      loss[side] = Loss();
    }
    // What the rounding of the weights left of the step.
    for (size_t i = 0; i < direction.size(); ++i) {
      const auto low = static_cast<float>(tensor.weight[i] - h * direction[i]);
      moved += (static_cast<double>(tensor.master[i]) - low) * direction[i];
    }
    std::copy(tensor.weight.begin(), tensor.weight.end(), tensor.master);
    return (loss[1] - loss[0]) / moved;
  }
  bool same_routes() const { return same_routes_; }
  void ForgetFlips() { same_routes_ = true; }

 private:
  OneRank& rank_;
  std::vector<int32_t> routes_, expected_routes_;
  bool same_routes_ = true;
};

struct Comparison {
  double analytic, measured, bound;
};

// Along `direction` (any length; normalised here), h so that the loss moves by 0.05 or the weights
// by 2%, whichever is less.
Comparison Compare(Differences& differences, const Tensor& tensor, std::vector<double> direction,
                   double scale) {
  const double length = Norm(direction);
  double weight = 0, analytic = 0;
  for (size_t i = 0; i < direction.size(); ++i) {
    direction[i] /= length;
    weight += static_cast<double>(tensor.weight[i]) * tensor.weight[i];
    analytic += direction[i] * tensor.gradient[i];
  }
  double h = std::min(0.02 * std::sqrt(weight), 0.05 / std::max(1e-12, std::abs(analytic)));
  double one = 0, two = 0;
  for (int attempt = 0; attempt < 5; ++attempt, h /= 4) {
    differences.ForgetFlips();
    two = differences.Slope(tensor, direction, 2 * h);
    one = differences.Slope(tensor, direction, h);
    if (differences.same_routes()) break;
  }
  EXPECT_TRUE(differences.same_routes()) << tensor.name << ": a token between two experts";
  return {analytic, (4 * one - two) / 3,
          1.5 * kNoise / h + 1e-4 * scale + 0.1 * std::abs(one - two)};
}

class ModelGradient : public ::testing::TestWithParam<Case> {};

TEST_P(ModelGradient, EveryTensorAgreesWithFiniteDifferences) {
  RunConfig config = TinyConfig();
  GetParam().change(config);
  OneRank rank(config);
  // A selection bias that matters, so that it must be left out of the weights.
  for (const auto& stage : rank.model->stages()) {
    for (const auto& gate : stage->gates()) {
      if (gate.layer->has_bias() && config.model().aux_loss_alpha() == 0)
        gate.layer->bias().mutable_data<float>()[1] = 0.2f;
    }
  }
  // Norm weights that are not all 1.
  rank.ForEachPiece([](const NamedPiece& piece, float* master, const float*) {
    if (piece.name.find(".lora_B.") != std::string::npos) {
      for (int64_t i = 0; i < piece.count; ++i)
        master[i] = static_cast<float>(0.2 * Normal(6, piece.begin + i));
    }
    if (piece.name.find("norm.weight") == std::string::npos) return;
    for (int64_t i = 0; i < piece.count; ++i)
      master[i] = static_cast<float>(1 + 0.3 * Normal(5, i));
  });
  rank.Publish();
  rank.LoadRandomBatch(3);
  const StepResult step = rank.Train(0);
  ASSERT_FALSE(step.skipped);
  std::vector<Tensor> tensors;
  rank.ForEachPiece([&](const NamedPiece& piece, float* master, const float* gradient) {
    tensors.push_back({piece.name + (piece.begin > 0 ? " from " + std::to_string(piece.begin) : ""),
                       master,
                       {master, master + piece.count},
                       {gradient, gradient + piece.count}});
  });
  Differences differences(rank);
  double worst = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const Tensor& tensor = tensors[t];
    const int64_t n = static_cast<int64_t>(tensor.weight.size());
    std::vector<double> along(n), across(n);
    for (int64_t i = 0; i < n; ++i) {
      across[i] = Normal(2 * t, i);
      along[i] = tensor.gradient[i] * std::min(2.0, std::abs(Normal(2 * t + 1, i)));
    }
    const double size = Norm(std::vector<double>(tensor.gradient.begin(), tensor.gradient.end()));
    const Comparison b =
        Compare(differences, tensor, across, size / std::sqrt(static_cast<double>(n)));
    EXPECT_NEAR(b.measured, b.analytic, b.bound) << tensor.name << ", a random direction";
    worst = std::max(worst, std::abs(b.measured - b.analytic) / b.bound);
    if (size == 0) continue;  // an expert without tokens; the random direction found 0 as well
    const Comparison a = Compare(differences, tensor, along, size);
    EXPECT_NEAR(a.measured, a.analytic, a.bound) << tensor.name << ", along the gradient";
    EXPECT_LT(a.bound, 0.02 * a.analytic) << tensor.name << ": the test is blunt";
    worst = std::max(worst, std::abs(a.measured - a.analytic) / a.bound);
  }
  RecordProperty("worst_share_of_bound", std::to_string(worst));
  std::printf("%zu tensors, worst %.2f of its bound\n", tensors.size(), worst);
}

INSTANTIATE_TEST_SUITE_P(All, ModelGradient, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace sluice::trainer
