// Runs that train a part of the model: the part's gradients are those of the whole run to the bit,
// the rest does not move, nothing is kept for it, and every layout and resume agrees.
#include "trainer/model/finetune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "absl/strings/match.h"
#include "checkpoints/digest.h"
#include "checkpoints/huggingface/adapted_weights.h"
#include "checkpoints/memory_file_system.h"
#include "tests/support/sanitized.h"
#include "tests/support/thread_ranks.h"
#include "tests/trainer/one_rank.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/run_state.h"

namespace sluice::trainer {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Two experts of layer 1 that are neighbours and one that is not, one of layer 3.
RunConfig ExpertsConfig(const std::string& precision) {
  RunConfig config = SmallConfig(precision);
  FinetuneConfig& finetune = *config.mutable_finetune();
  finetune.set_mode("experts");
  LayerExperts& one = *finetune.add_layer_experts();
  one.set_layer(1);
  for (int expert : {1, 2, 6}) one.add_experts(expert);
  LayerExperts& three = *finetune.add_layer_experts();
  three.set_layer(3);
  three.add_experts(7);
  return config;
}

bool IsChosen(const std::string& name) {
  for (const char* part : {"layers.1.mlp.experts.1.", "layers.1.mlp.experts.2.",
                           "layers.1.mlp.experts.6.", "layers.3.mlp.experts.7."}) {
    if (absl::StrContains(name, part)) return true;
  }
  return false;
}

TEST(TrainedPart, GradientsAreThoseOfTheWholeRunToTheBit) {
  for (const char* precision : {"FP32", "BF16"}) {
    const RunRecord whole = RunLayout(SmallConfig(precision), {}, 1);
    const RunRecord part = RunLayout(ExpertsConfig(precision), {}, 1);
    EXPECT_EQ(part.steps[0].loss, whole.steps[0].loss);
    EXPECT_EQ(part.rows, whole.rows);
    std::set<std::string> expected;
    for (const auto& [name, gradient] : whole.gradients) {
      if (!IsChosen(name)) continue;
      expected.insert(name);
      ASSERT_EQ(part.gradients.count(name), 1u) << name;
      EXPECT_EQ(part.gradients.at(name), gradient) << name;
    }
    EXPECT_EQ(expected.size(), 4u * 3u);
    EXPECT_EQ(part.gradients.size(), expected.size()) << "gradients of frozen tensors";
  }
}

TEST(TrainedPart, FrozenProjectionsOfAFusedWeightLeaveTheOthersAlone) {
  RunConfig config = SmallConfig("FP32");
  config.mutable_finetune()->set_freeze("kv_a_proj|norm|embed_tokens|layers\\.0\\.mlp\\.gate_proj");
  config.mutable_finetune()->set_train_router(false);
  const RunRecord whole = RunLayout(SmallConfig("FP32"), {}, 1), part = RunLayout(config, {}, 1);
  int num_trained = 0;
  for (const auto& [name, gradient] : whole.gradients) {
    const bool frozen = absl::StrContains(name, "kv_a_proj") || absl::StrContains(name, "norm") ||
                        absl::StrContains(name, "embed_tokens") ||
                        absl::StrContains(name, "layers.0.mlp.gate_proj") ||
                        absl::EndsWith(name, "mlp.gate.weight");
    EXPECT_EQ(part.gradients.count(name), frozen ? 0u : 1u) << name;
    if (frozen) continue;
    ++num_trained;
    EXPECT_EQ(part.gradients.at(name), gradient) << name;
  }
  EXPECT_GT(num_trained, 50);
}

TEST(TrainedPart, EveryLayoutTakesTheSameStep) {
  const RunConfig config = ExpertsConfig("FP32");
  const RunRecord one = RunLayout(config, {}, 4);
  const Layout layouts[] = {{.data = 2, .expert = 2},
                            {.pipe = 2, .data = 2, .expert = 2},
                            {.data = 4, .expert = 2},
                            {.pipe = 4, .schedule = "zb_h1"}};
  for (const Layout& layout : layouts) {
    if (testing::kSanitized && layout.data == 2) continue;
    const RunRecord other = RunLayout(config, layout, 4);
    EXPECT_THAT(CompareFirstStep(one, other), IsEmpty()) << layout.Name();
    EXPECT_NEAR(other.steps.back().loss, one.steps.back().loss, 1e-4 * one.steps.back().loss);
  }
}

TEST(TrainedPart, UpdatesReachTheWeightsThatForwardReads) {
  // A rate at which a few steps on one batch must show.
  RunConfig config = TinyConfig();
  config.mutable_finetune()->set_mode("experts");
  LayerExperts& layer = *config.mutable_finetune()->add_layer_experts();
  layer.set_layer(1);
  layer.add_experts(0);
  layer.add_experts(3);
  OneRank rank(config);
  rank.LoadRandomBatch(3);
  const double before = rank.Evaluate().loss;
  for (int step = 1; step <= 8; ++step) rank.Train(0.02, step);
  EXPECT_LT(rank.Evaluate().loss, before - 0.05);
}

TEST(TrainedPart, KeepsNoGradientsOrMomentsForFrozenTensors) {
  OneRank whole(TinyConfig());
  RunConfig config = TinyConfig();
  config.mutable_finetune()->set_freeze("layers|embed_tokens");  // the head and a norm are left
  OneRank part(config);
  const auto bytes = [](OneRank& rank, kernels::MemoryTag tag) {
    return rank.device->memory().bytes(tag);
  };
  const int64_t trained = part.model->store().num_trained_elements();
  EXPECT_EQ(trained, 31 * 24 + 24);
  // Padding: each array to 32 elements a parameter.
  EXPECT_LE(bytes(part, kernels::MemoryTag::kGradients), (trained + 96) * 4);
  EXPECT_LE(bytes(part, kernels::MemoryTag::kOptimizer), (trained + 96) * 8 + 64);
  EXPECT_EQ(bytes(part, kernels::MemoryTag::kParameters) / 64,
            bytes(whole, kernels::MemoryTag::kParameters) / 64);
}

TEST(GateBias, StaysWhereFinetuningSaysSo) {
  for (const bool updates : {true, false}) {
    RunConfig config = TinyConfig();
    config.mutable_train()->set_bias_update_speed(0.01);
    config.mutable_finetune()->set_update_gate_bias(updates);
    OneRank rank(config);
    rank.LoadRandomBatch(3);
    rank.Train(0);
    double moved = 0;
    const TensorView bias = rank.model->stages()[0]->gates()[0].layer->bias();
    for (int e = 0; e < 4; ++e) moved += std::abs(bias.data<float>()[e]);
    EXPECT_EQ(moved > 0, updates);
  }
}

TEST(ParameterRules, ScaleTheRateAndReplaceTheDecayOfWhatTheyMatch) {
  RunConfig config = TinyConfig();
  ParameterRule& still = *config.mutable_train()->add_rules();
  still.set_match("self_attn");
  still.set_lr_multiplier(0);
  ParameterRule& half = *config.mutable_train()->add_rules();
  half.set_match("down_proj");
  half.set_lr_multiplier(0.5);
  half.set_weight_decay(0);
  RunConfig plain = TinyConfig();
  plain.mutable_train()->set_weight_decay(0);
  OneRank ruled(config), reference(plain);
  std::map<std::string, std::vector<float>> before, after, unruled;
  const auto keep = [](OneRank& rank, std::map<std::string, std::vector<float>>& to) {
    rank.ForEachPiece([&](const NamedPiece& piece, float* master, const float*) {
      std::vector<float>& tensor = to[piece.name];
      tensor.insert(tensor.end(), master, master + piece.count);
    });
  };
  keep(ruled, before);
  for (OneRank* rank : {&ruled, &reference}) {
    rank->LoadRandomBatch(3);
    rank->Train(0.01);
  }
  keep(ruled, after);
  keep(reference, unruled);
  for (const auto& [name, old] : before) {
    if (absl::StrContains(name, "self_attn")) {
      EXPECT_EQ(after[name], old) << name;
    } else if (absl::StrContains(name, "down_proj")) {
      for (size_t i = 0; i < old.size(); ++i) {
        // Two FP32 subtractions from numbers below 1: 2^-24 each.
        EXPECT_NEAR(after[name][i] - old[i], 0.5 * (unruled[name][i] - old[i]), 0x1p-22) << name;
      }
    } else {
      EXPECT_NE(after[name], old) << name;
    }
  }
}

// ---- checkpoints

RunConfig On(RunConfig config, const Layout& layout) {
  config.mutable_mesh()->set_pipe(layout.pipe);
  config.mutable_mesh()->set_data(layout.data);
  config.mutable_mesh()->set_expert(layout.expert);
  const auto resolved = Resolve(config, layout.world());
  CHECK(resolved.ok()) << resolved.status().ToString();
  return *resolved;
}

std::string SaveOn(const RunConfig& config, const Layout& layout, const std::string& dir,
                   checkpoints::FileSystem& files,
                   const std::function<RunState(RankModel&)>& make) {
  std::mutex mutex;
  std::string path;
  const RunConfig resolved = On(config, layout);
  testing::RunThreadRanks(
      layout.world(), kernels::CpuStreamMode::kInline,
      [&](parallel::Communicator& group, kernels::DeviceContext& device) {
        auto model = RankModel::Create(resolved, {.world = &group, .device = &device});
        ASSERT_TRUE(model.ok()) << model.status();
        const RunState state = make(**model);
        const auto saved =
            SaveState(**model, state, {.dir = dir, .log = [](absl::string_view) {}}, files);
        ASSERT_TRUE(saved.ok()) << saved.status();
        const std::lock_guard<std::mutex> lock(mutex);
        path = *saved;
      });
  return path;
}

RunState InitialState(RankModel& model) {
  CHECK(model.InitializeWeights().ok());
  RunState state;
  state.step = 3;
  return state;
}

std::string DigestOf(const std::string& generation, checkpoints::FileSystem& files) {
  auto reader = checkpoints::CheckpointReader::Open(files, generation);
  CHECK(reader.ok()) << reader.status().ToString();
  return checkpoints::DigestOfCheckpoint(**reader)->ToString();
}

TEST(FrozenWeights, AreStoredOnceWithoutOptimizerStateAndMoveToAnyMesh) {
  checkpoints::MemoryFileSystem files;
  const RunConfig config = ExpertsConfig("BF16");
  const std::string first = SaveOn(config, {}, "/one", files, InitialState);
  const std::string digest = DigestOf(first, files);
  EXPECT_THAT(digest, HasSubstr("weight/model.layers.1.mlp.experts.0.up_proj.weight  bf16"));
  EXPECT_THAT(digest, HasSubstr("master/model.layers.1.mlp.experts.6.up_proj.weight  f32"));
  EXPECT_THAT(digest, HasSubstr("adam_m/model.layers.1.mlp.experts.6.up_proj.weight"));
  EXPECT_EQ(digest.find("weight/model.layers.1.mlp.experts.6"), std::string::npos);
  EXPECT_EQ(digest.find("master/model.layers.1.mlp.experts.0"), std::string::npos);
  EXPECT_EQ(digest.find("adam_m/model.embed_tokens"), std::string::npos);
  int number = 0;
  for (const Layout& layout :
       {Layout{.data = 2}, Layout{.pipe = 2, .data = 2, .expert = 2}, Layout{.pipe = 4}}) {
    const std::string made =
        SaveOn(config, layout, "/made" + std::to_string(number), files, InitialState);
    EXPECT_EQ(DigestOf(made, files), digest) << layout.Name();
    const std::string loaded =
        SaveOn(config, layout, "/loaded" + std::to_string(number++), files, [&](RankModel& model) {
          const auto state = LoadState(model, first, LoadOptions(), files);
          CHECK(state.ok()) << state.status().ToString();
          return *state;
        });
    EXPECT_EQ(DigestOf(loaded, files), digest) << layout.Name();
  }
}

// Another run's masters become frozen values, and frozen values become masters.
TEST(FrozenWeights, AreReadFromMastersAndTheOtherWayRound) {
  checkpoints::MemoryFileSystem files;
  const RunConfig whole = SmallConfig("BF16"), part = ExpertsConfig("BF16");
  const std::string trained = SaveOn(whole, {}, "/whole", files, InitialState);
  const auto load = [&](const std::string& from) {
    return [&files, from](RankModel& model) {
      const auto state = LoadState(model, from, {.weights_only = true}, files);
      CHECK(state.ok()) << state.status().ToString();
      return *state;
    };
  };
  const std::string frozen = SaveOn(part, {.data = 2}, "/part", files, load(trained));
  EXPECT_EQ(DigestOf(frozen, files), DigestOf(SaveOn(part, {}, "/p", files, InitialState), files));
  const std::string again = SaveOn(whole, {.pipe = 2}, "/again", files, load(frozen));
  auto reader = checkpoints::CheckpointReader::Open(files, again);
  ASSERT_TRUE(reader.ok());
  const std::string name = "model.layers.2.mlp.experts.3.down_proj.weight";
  std::vector<float> read(48 * 32), expected(48 * 32);
  ASSERT_TRUE(
      (*reader)->Read({"master/" + name, DType::kF32, {48, 32}, 0, 48 * 32}, read.data()).ok());
  InitialValues(1, name, false, 0.05, 0, 48 * 32, expected.data());
  for (float& value : expected) value = kernels::ToFloat(kernels::ToBFloat16(value));
  EXPECT_EQ(read, expected);
}

TEST(FinetuneConfig, WhatMakesNoSenseIsRefusedInOneSentence) {
  const auto refusal = [](const std::function<void(FinetuneConfig&)>& change) {
    RunConfig config = SmallConfig("FP32");
    change(*config.mutable_finetune());
    return std::string(Resolve(config, 1).status().message());
  };
  EXPECT_EQ(refusal([](FinetuneConfig& c) { c.set_mode("half"); }),
            "finetune.mode: found \"half\", wanted full, lora or experts");
  EXPECT_THAT(refusal([](FinetuneConfig& c) { c.set_freeze("layers.("); }),
              HasSubstr("finetune.freeze: found \"layers.(\", wanted a regular expression"));
  EXPECT_THAT(refusal([](FinetuneConfig& c) { c.set_mode("experts"); }),
              HasSubstr("finetune.layer_experts: found nothing"));
  EXPECT_EQ(
      refusal([](FinetuneConfig& c) {
        c.set_mode("experts");
        c.add_layer_experts()->set_layer(0);
      }),
      "finetune.layer_experts of layer 0: found a layer without experts, wanted an MoE layer");
  EXPECT_EQ(refusal([](FinetuneConfig& c) {
              c.set_mode("experts");
              c.add_layer_experts()->set_layer(2);
              c.mutable_layer_experts(0)->add_experts(8);
            }),
            "finetune.layer_experts of layer 2: found expert 8, wanted 0 to 7");
}

TEST(FinetuneConfig, ARunThatWouldTrainNothingIsRefused) {
  const auto check = [](const std::function<void(FinetuneConfig&)>& change) {
    RunConfig config = SmallConfig("FP32");
    change(*config.mutable_finetune());
    const auto resolved = Resolve(config, 1);
    EXPECT_TRUE(resolved.ok()) << resolved.status();
    return std::string(CheckTrainsSomething(resolved->finetune(), resolved->model()).message());
  };
  const auto lora = [](const char* targets) {
    return [targets](FinetuneConfig& c) {
      c.set_mode("lora");
      c.mutable_lora()->set_targets(targets);
    };
  };
  EXPECT_EQ(check([](FinetuneConfig&) {}), "");
  EXPECT_EQ(check([](FinetuneConfig& c) { c.set_mode("lora"); }), "");
  EXPECT_EQ(check(lora("o_proj$")), "");
  EXPECT_THAT(check(lora("q_proj_x")),
              HasSubstr("finetune.lora.targets: found \"q_proj_x\", wanted a pattern that is found "
                        "in a projection's name, as model.layers."));
  EXPECT_THAT(check(lora("embed_tokens")), HasSubstr("finetune.lora.targets"));
  EXPECT_EQ(check([](FinetuneConfig& c) { c.set_freeze("layers|embed"); }), "");
  EXPECT_EQ(check([](FinetuneConfig& c) { c.set_freeze("."); }),
            "finetune.freeze: found \".\", wanted a pattern that leaves a tensor to train with "
            "finetune.mode full");
  EXPECT_THAT(check([](FinetuneConfig& c) {
                c.set_mode("experts");
                c.set_freeze("up_proj|down_proj");  // gate and up projection are one
                c.add_layer_experts()->set_layer(2);
                c.mutable_layer_experts(0)->add_experts(1);
              }),
              HasSubstr("with finetune.mode experts"));
  EXPECT_EQ(check([](FinetuneConfig& c) {
              c.set_mode("experts");
              c.add_layer_experts()->set_layer(2);
            }),
            "finetune.layer_experts: found no expert in any layer, wanted one or more to train");
}

}  // namespace
}  // namespace sluice::trainer
