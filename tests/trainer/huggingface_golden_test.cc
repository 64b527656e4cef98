// Every family against transformers (or, where it has no answer, a plain PyTorch model written from
// the papers): tests/golden/huggingface/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "nlohmann/json.hpp"
#include "tests/trainer/huggingface_case.h"
#include "trainer/loop/decoder.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/load_model.h"
#include "trainer/loop/score.h"
#include "trainer/loop/train_step.h"

namespace sluice::trainer {
namespace {

class OneRankContext {
 public:
  OneRankContext()
      : world_(parallel::CreateSelfCommunicator()),
        device_(*kernels::DeviceContext::Create({.num_threads = 1})) {
    context_.world = world_.get();
    context_.device = device_.get();
  }
  const RankContext& get() const { return context_; }

 private:
  std::unique_ptr<parallel::Communicator> world_;
  std::unique_ptr<kernels::DeviceContext> device_;
  RankContext context_;
};

struct Worst {
  double share = 0;  // of the bound
  std::string name;
  void Add(double value, const std::string& of) {
    if (value > share) {
      share = value;
      name = of;
    }
  }
};

double Largest(const std::vector<float>& x) {
  double most = 0;
  for (const float value : x) most = std::max(most, std::fabs(static_cast<double>(value)));
  return most;
}

double LargestDifference(const std::vector<float>& x, const std::vector<float>& y) {
  EXPECT_EQ(x.size(), y.size());
  double most = 0;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
    most = std::max(most, std::fabs(static_cast<double>(x[i]) - y[i]));
  return most;
}

// max |d logit| / max |logit|, and |d gradient| / |gradient|.
constexpr double kLogitBound = 2e-5, kGradientBound = 1e-4;

class HuggingFaceGolden : public ::testing::TestWithParam<const char*> {
 protected:
  static void SetMask(RunConfig& config) {
    if (std::string(GetParam()) == "deepseek_v3_group_mask_zero")
      config.mutable_model()->set_group_mask("zero");
  }
};

TEST_P(HuggingFaceGolden, LogitsLogProbabilitiesLossAndGradients) {
  HuggingFaceCase golden(GetParam());
  const auto imported = golden.Import(SetMask);
  ASSERT_TRUE(imported.ok()) << imported.status();
  const OneRankContext rank;
  ScoreOptions options;
  options.checkpoint = golden.run();
  options.logits_path = golden.dir.File("logits.safetensors");
  options.gradients_path = golden.dir.File("gradients.safetensors");
  const auto scores =
      Score(options, {{.ids = golden.Line(0)}, {.ids = golden.Line(1)}}, rank.get());
  ASSERT_TRUE(scores.ok()) << scores.status();

  std::vector<float> logits, logprobs;
  auto found = ReadAll(options.logits_path);
  for (const char* line : {"logits.0", "logits.1"})
    logits.insert(logits.end(), found[line].begin(), found[line].end());
  for (const auto& line : *scores) logprobs.insert(logprobs.end(), line.begin(), line.end());
  const double logit_error =
      LargestDifference(logits, golden.golden["logits"]) / Largest(golden.golden["logits"]);
  EXPECT_LE(logit_error, kLogitBound);
  // A log-probability is a logit minus a log-sum-exp, which moves no more than the logits do.
  EXPECT_LE(LargestDifference(logprobs, golden.golden["logprobs"]),
            2 * kLogitBound * Largest(golden.golden["logits"]));
  double loss = 0;
  for (const float logprob : logprobs) loss -= logprob / static_cast<double>(logprobs.size());
  EXPECT_NEAR(loss, golden.golden["loss"][0], 2 * kLogitBound * Largest(golden.golden["logits"]));

  Worst gradient;
  const bool has_mtp = golden.golden.contains("mtp_loss");  // see the test below
  const auto gradients = ReadAll(options.gradients_path);
  for (const auto& [name, expected] : golden.golden) {
    if (name.rfind("gradient.", 0) != 0 || has_mtp) continue;
    const auto ours = gradients.find(name.substr(9));
    ASSERT_NE(ours, gradients.end()) << name;
    const double off = DifferenceNorm(ours->second, expected), norm = NormOf(expected);
    EXPECT_LE(off, kGradientBound * norm) << name;
    if (norm > 0) gradient.Add(off / norm, name);
  }
  std::printf("%-28s logits %.1e  gradients %.1e (%s)\n", GetParam(), logit_error, gradient.share,
              gradient.name.c_str());
}

// The cached decoder computes the same by other code: absorbed attention, a token at a time.
TEST_P(HuggingFaceGolden, TheDecoderGivesTheSameLogits) {
  HuggingFaceCase golden(GetParam());
  ASSERT_TRUE(golden.Import(SetMask).ok());
  const OneRankContext rank;
  auto loaded = LoadModel(golden.run(), rank.get());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  auto decoder = Decoder::Create(*loaded->model, golden.length());
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  std::vector<float> logits;
  const std::vector<int32_t> line = golden.Line(0);
  for (int64_t i = 0; i < golden.length(); ++i) {
    const auto row = (*decoder)->Step(line[i]);
    ASSERT_TRUE(row.ok()) << row.status();
    logits.insert(logits.end(), row->begin(), row->end());
  }
  std::vector<float> expected = golden.golden["logits"];
  expected.resize(expected.size() / 2);
  EXPECT_LE(LargestDifference(logits, expected), kLogitBound * Largest(expected));
}

INSTANTIATE_TEST_SUITE_P(Families, HuggingFaceGolden,
                         ::testing::Values("deepseek_v3", "deepseek_v3_dense_3",
                                           "deepseek_v3_half_rope", "moonlight", "deepseek_v2",
                                           "deepseek_v2_lite", "qwen3_moe", "qwen3_moe_yarn",
                                           "mixtral", "olmoe", "olmoe_normalised",
                                           "deepseek_v2_normalised", "deepseek_v3_group_mask_zero",
                                           "deepseek_v3_mtp", "deepseek_v3_fp8"),
                         [](const auto& info) { return std::string(info.param); });

HostBatch BothLines(const HuggingFaceCase& golden) {
  HostBatch host;
  for (int line = 0; line < 2; ++line) {
    const std::vector<int32_t> tokens = golden.Line(line);
    host.tokens.insert(host.tokens.end(), tokens.begin(), tokens.end());
    host.document_starts.emplace_back();
    host.num_targets.push_back(golden.length());
  }
  return host;
}

// Loss and gradients of main loss + 0.3 MTP loss.
TEST(HuggingFaceGoldenMtp, LossAndGradients) {
  HuggingFaceCase golden("deepseek_v3_mtp");
  ASSERT_TRUE(golden.Import().ok());
  const OneRankContext rank;
  auto loaded = LoadModel(golden.run(), rank.get(), LoadFor::kGradients);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  RankModel& model = *loaded->model;
  const HostBatch host = BothLines(golden);
  DeviceBatch batch(model.device(), {.sequence_length = golden.length(), .mtp_depth = 1});
  ASSERT_TRUE(batch.Load(host, 0).ok());
  ASSERT_EQ(batch.num_mtp_targets(), 2 * (golden.length() - 1));
  const double targets = static_cast<double>(batch.num_targets()),
               mtp_targets = static_cast<double>(batch.num_mtp_targets());
  LossScales scales;
  scales.mtp = static_cast<float>(0.3 * targets / mtp_targets);
  SequenceSums sums;
  sums.Reset(2, model.num_gates());
  ASSERT_TRUE(model.Run(batch.inputs(), scales, true, &sums).ok());
  const double bound = 2 * kLogitBound * Largest(golden.golden["mtp_logits"]);
  EXPECT_NEAR((sums.mtp_loss[0] + sums.mtp_loss[1]) / mtp_targets, golden.golden["mtp_loss"][0],
              bound);
  EXPECT_NEAR((sums.loss[0] + sums.loss[1]) / targets, golden.golden["loss"][0], bound);
  std::map<std::string, std::vector<float>> gradients;
  for (const auto& parameter : model.store().parameters()) {
    for (const NamedPiece& piece : parameter->pieces) {
      std::vector<float>& whole = gradients[piece.name];
      whole.resize(golden.golden["gradient." + piece.name].size());
      for (int64_t i = 0; i < piece.count; ++i) {
        whole[piece.begin + i] =
            static_cast<float>(parameter->gradient.data<float>()[piece.offset + i] / targets);
      }
    }
  }
  Worst worst;
  for (const auto& [name, gradient] : gradients) {
    const std::vector<float>& expected = golden.golden["gradient." + name];
    const double off = DifferenceNorm(gradient, expected), norm = NormOf(expected);
    EXPECT_LE(off, kGradientBound * norm) << name;
    if (norm > 0) worst.Add(off / norm, name);
  }
  std::printf("%-28s with MTP: gradients %.1e (%s)\n", "deepseek_v3_mtp", worst.share,
              worst.name.c_str());
}

// router_aux_loss_coef: transformers' load-balancing loss, and what it does to the gates.
TEST(HuggingFaceGoldenLoadBalancing, LossAndGradientsOfTheGates) {
  const nlohmann::json goldens = nlohmann::json::parse(
      data::Slurp(testing::SourcePath("tests/golden/huggingface/load_balancing.json")));
  ASSERT_EQ(goldens.size(), 4u);
  for (const auto& [name, expected] : goldens.items()) {
    HuggingFaceCase golden(name);
    const auto imported = golden.Import([](RunConfig& config) {
      config.mutable_model()->set_router_aux_loss_coef(1);
      config.set_schedule("gpipe");
    });
    ASSERT_TRUE(imported.ok()) << imported.status();
    const OneRankContext rank;
    auto loaded = LoadModel(golden.run(), rank.get(), LoadFor::kGradients);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    RankModel& model = *loaded->model;
    const HostBatch host = BothLines(golden);
    DeviceBatch batch(model.device(), {.sequence_length = golden.length()});
    ASSERT_TRUE(batch.Load(host, 0).ok());
    StepOptions options;
    options.global_sequences = 2;
    const auto step = TrainStep(model, batch, options);  // at rate 0
    ASSERT_TRUE(step.ok()) << step.status();
    EXPECT_NEAR(step->aux_loss, expected["loss"].get<double>(), 1e-5) << name;
    size_t gates = 0;
    for (const auto& parameter : model.store().parameters()) {
      for (const NamedPiece& piece : parameter->pieces) {
        const size_t end = piece.name.find(".mlp.gate.weight");
        if (end == std::string::npos) continue;
        const float* gradient = parameter->gradient.data<float>() + piece.offset;
        const double norm =
            NormOf({gradient, gradient + piece.count}) / static_cast<double>(batch.num_targets());
        const double wanted = expected["gate_gradient_norms"][piece.name.substr(0, end)];
        EXPECT_NEAR(norm, wanted, kGradientBound * wanted) << name << " " << piece.name;
        ++gates;
      }
    }
    EXPECT_EQ(gates, expected["gate_gradient_norms"].size()) << name;
  }
}

}  // namespace
}  // namespace sluice::trainer
