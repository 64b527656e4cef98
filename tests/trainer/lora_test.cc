// Adapters: against a scalar reference, in every layout, through checkpoints, and merged. Their
// gradients in whole models are in model_gradient_test.
#include "trainer/model/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "absl/strings/match.h"
#include "checkpoints/digest.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "checkpoints/memory_file_system.h"
#include "kernels/ops/cast.h"
#include "kernels/reference/low_rank.h"
#include "tests/support/near.h"
#include "tests/support/sanitized.h"
#include "tests/support/thread_ranks.h"
#include "tests/trainer/one_rank.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/run_state.h"
#include "trainer/model/finetune.h"

namespace sluice::trainer {
namespace {

using sluice::testing::Near;
using sluice::testing::Tensor;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

LoraConfig Rank3() {
  LoraConfig config;
  config.set_rank(3);
  config.set_alpha(6);
  config.set_dropout(0);
  config.set_init("kaiming");
  return config;
}

// One linear layer of two fused modules, with an adapter, outside any model.
class OneLinear {
 public:
  static constexpr int64_t kIn = 11, kFirst = 5, kSecond = 8, kRows = 6;

  explicit OneLinear(const std::string& targets) {
    store.set_is_trained(&IsAdapterName);
    Parameter fused;
    fused.shape = {kFirst + kSecond, kIn};
    fused.pieces = {{"m.a_proj.weight", {kFirst, kIn}, 0, 0, kFirst * kIn},
                    {"m.b_proj.weight", {kSecond, kIn}, 0, kFirst * kIn, kSecond * kIn}};
    weight = &store.Add(std::move(fused));
    linear = std::make_unique<Linear>(*weight);
    auto adapter = LowRankAdapter::Create(Rank3(), *NamePattern::Create("targets", targets),
                                          *weight, store, layout);
    CHECK(adapter.ok()) << adapter.status().ToString();
    linear->set_adapter(*std::move(adapter));
    CHECK(store.Allocate(*device, DType::kF32, {1, 1}).ok());
    CHECK(linear->Allocate(*device, DType::kF32).ok());
    uint64_t seed = 1;
    for (const auto& parameter : store.parameters()) {
      kernels::Fill(stream(), parameter->value, 0);
      const Tensor random = Tensor::Random(parameter->shape, DType::kF32, seed++);
      device->Copy(random, parameter->value, stream());
      if (parameter->trained) kernels::Fill(stream(), parameter->gradient, 0);
    }
    linear->Repack(stream());
    batch.num_sequences = 1;
    batch.sequence_length = kRows;
  }
  kernels::Stream& stream() { return device->stream(kernels::StreamRole::kCompute); }
  const Parameter& Find(const std::string& name) { return *store.Find(name); }

  std::unique_ptr<kernels::DeviceContext> device = *kernels::DeviceContext::Create({});
  ParameterStore store;
  TapeLayout layout;
  Parameter* weight = nullptr;
  std::unique_ptr<Linear> linear;
  MicrobatchInput batch;
};

// All of one module against the reference with W, A and B of that module alone.
void CheckModule(OneLinear& one, const std::string& module, int64_t first, int64_t count) {
  ActivationPool pool(
      *one.device, [](const absl::Status&) {}, nullptr);
  Tape tape(one.layout, pool);
  const Context context{one.stream(), pool, tape, one.batch, LossScales(), true, DType::kF32};
  const Tensor x = Tensor::Random({OneLinear::kRows, OneLinear::kIn}, DType::kF32, 20);
  const Tensor dy({OneLinear::kRows, OneLinear::kFirst + OneLinear::kSecond});
  const Tensor random = Tensor::Random({OneLinear::kRows, count}, DType::kF32, 21);
  for (int64_t t = 0; t < OneLinear::kRows; ++t) {
    for (int64_t o = 0; o < count; ++o)
      dy.SetAt(t * dy.shape()[1] + first + o, random.At(t * count + o));
  }
  const Tensor y(dy.shape()), dx(x.shape());
  one.linear->Forward(context, x, y);
  one.linear->BackwardInput(context, dy, dx);
  one.linear->BackwardWeight(context, dy, x);
  ASSERT_TRUE(one.stream().Synchronize().ok());

  const Parameter& a = one.Find(module + ".lora_A.weight");
  const Parameter& b = one.Find(module + ".lora_B.weight");
  const int64_t a_first = a.pieces[0].name.find(module) == 0 ? 0 : 3;
  const Tensor expected_y({OneLinear::kRows, count}), expected_dx(x.shape()),
      da({3, OneLinear::kIn}), db({count, 3});
  kernels::reference::LoraLinear({.w = one.weight->value.Rows(first, count),
                                  .a = a.value.Rows(a_first, 3),
                                  .b = b.value,
                                  .x = x,
                                  .dy = random,
                                  .scale = 2,
                                  .y = expected_y,
                                  .dx = expected_dx,
                                  .da = da,
                                  .db = db});
  // Sums of at most 13 + 3 * 11 products below 2, rounded term by term in FP32: 46 * 2 * 2^-24.
  const sluice::testing::Bound bound = {.absolute = 46 * 2 * 0x1p-24};
  const auto part = [&](const ConstTensorView& from, int64_t begin, int64_t columns) {
    const Tensor copy({from.extent(0), columns});
    for (int64_t r = 0; r < from.extent(0); ++r) {
      for (int64_t c = 0; c < columns; ++c)
        copy.SetAt(r * columns + c, from.data<float>()[r * from.row_stride() + begin + c]);
    }
    return copy;
  };
  EXPECT_TRUE(Near(part(y, first, count), expected_y, bound)) << module;
  EXPECT_TRUE(Near(dx, expected_dx, bound)) << module;
  EXPECT_TRUE(Near(part(a.gradient.Rows(a_first, 3), 0, OneLinear::kIn), da, bound)) << module;
  EXPECT_TRUE(Near(part(b.gradient, 0, 3), db, bound)) << module;
}

TEST(LowRankAdapter, AgreesWithTheReferenceModuleByModule) {
  OneLinear first("_proj"), second("_proj");
  CheckModule(first, "m.a_proj", 0, OneLinear::kFirst);
  CheckModule(second, "m.b_proj", OneLinear::kFirst, OneLinear::kSecond);
}

TEST(LowRankAdapter, TakesOnlyTheTargetsOfAFusedWeight) {
  OneLinear one("b_proj");
  EXPECT_EQ(one.store.Find("m.a_proj.lora_A.weight"), nullptr);
  CheckModule(one, "m.b_proj", OneLinear::kFirst, OneLinear::kSecond);
}

RunConfig LoraRun(RunConfig config, double dropout) {
  FinetuneConfig& finetune = *config.mutable_finetune();
  finetune.set_mode("lora");
  finetune.mutable_lora()->set_rank(4);
  finetune.mutable_lora()->set_alpha(6);
  finetune.mutable_lora()->set_dropout(dropout);
  return config;
}

TEST(Lora, BeginsAsTheModelThatItAdapts) {
  const RunRecord plain = RunLayout(SmallConfig("BF16"), {}, 1);
  RunConfig config = LoraRun(SmallConfig("BF16"), 0.1);
  OneRank adapted(config), frozen(SmallConfig("BF16"));
  adapted.LoadRandomBatch(1);
  frozen.LoadRandomBatch(1);
  EXPECT_EQ(adapted.Evaluate().loss, frozen.Evaluate().loss);  // B = 0
}

TEST(Lora, TrainsNothingButAdaptersAndKeepsStateForThemOnly) {
  OneRank rank(LoraRun(TinyConfig(), 0));
  std::map<std::string, int64_t> count;
  rank.ForEachPiece([&](const NamedPiece& piece, float*, const float*) {
    EXPECT_TRUE(IsAdapterName(piece.name)) << piece.name;
    count[piece.name] += piece.count;
  });
  EXPECT_EQ(count["model.layers.1.mlp.experts.3.up_proj.lora_A.weight"], 4 * 24);
  EXPECT_EQ(count["model.layers.1.mlp.experts.3.down_proj.lora_B.weight"], 24 * 4);
  EXPECT_EQ(count["model.layers.0.self_attn.kv_b_proj.lora_B.weight"], 2 * (6 + 7) * 4);
  // Attention has 5 modules, a dense layer 3, an MoE layer 3 in each of 4 experts and 3 shared.
  EXPECT_EQ(count.size(), 2u * (2 * 5 + 3 + 3 * 5));
  const int64_t trained = rank.model->store().num_trained_elements();
  EXPECT_LT(rank.device->memory().bytes(kernels::MemoryTag::kGradients),
            (trained + 32 * static_cast<int64_t>(count.size())) * 4);
}

TEST(Lora, LearnsWithDropoutAndForgetsItInEvaluation) {
  OneRank rank(LoraRun(TinyConfig(), 0.2));
  rank.LoadRandomBatch(3);
  const double before = rank.Evaluate().loss;
  for (int step = 1; step <= 12; ++step) rank.Train(0.02, step);
  const double after = rank.Evaluate().loss;
  EXPECT_LT(after, before - 0.1);
  EXPECT_EQ(rank.Evaluate().loss, after);
  const double once = rank.Train(0, 20).loss, other_mask = rank.Train(0, 21).loss;
  EXPECT_NE(once, after);
  EXPECT_NE(once, other_mask);
  EXPECT_EQ(rank.Train(0, 20).loss, once);
}

// With B's that are not zero (small_run sets them), so that every path carries something.
TEST(Lora, EveryLayoutTakesTheSameStepDropoutIncluded) {
  for (const char* precision : {"FP32", "BF16"}) {
    const RunConfig config = LoraRun(SmallConfig(precision), 0.25);
    const RunRecord one = RunLayout(config, {}, 3);
    EXPECT_NE(one.steps[0].loss,
              RunLayout(LoraRun(SmallConfig(precision), 0), {}, 1).steps[0].loss);
    const Layout layouts[] = {{.threads = 2},
                              {.data = 2, .expert = 2},
                              {.data = 4, .expert = 2},
                              {.pipe = 2, .data = 2, .expert = 2},
                              {.pipe = 4, .schedule = "zb_h1"}};
    for (const Layout& layout : layouts) {
      // Under a sanitizer those that have the most of exchange and of pipeline.
      const bool is_largest = layout.data == 4 || layout.pipe == 4;
      if (testing::kSanitized && (precision == std::string("FP32") || !is_largest)) continue;
      const RunRecord other = RunLayout(config, layout, 3);
      EXPECT_THAT(CompareFirstStep(one, other), IsEmpty()) << precision << " " << layout.Name();
      EXPECT_NEAR(other.steps.back().loss, one.steps.back().loss, 1e-3 * one.steps.back().loss);
    }
  }
}

TEST(Lora, RecomputeChangesNoBit) {
  RunConfig config = LoraRun(SmallConfig("BF16"), 0.25);
  const RunRecord kept = RunLayout(config, {}, 2);
  config.mutable_compute()->set_recompute("norm,mla_up,swiglu");
  EXPECT_EQ(RunLayout(config, {}, 2).masters, kept.masters);
}

// ---- checkpoints

std::string Save(RankModel& model, const std::string& dir, checkpoints::FileSystem& files) {
  RunState state;
  state.step = 1;
  const auto saved = SaveState(model, state, {.dir = dir, .log = [](absl::string_view) {}}, files);
  CHECK(saved.ok()) << saved.status().ToString();
  return *saved;
}

void MoveAdapters(OneRank& rank) {
  rank.LoadRandomBatch(3);
  for (int step = 1; step <= 4; ++step) rank.Train(0.02, step);
}

TEST(MergeLora, GivesTheModelThatTheAdaptersMake) {
  checkpoints::MemoryFileSystem files;
  OneRank adapted(LoraRun(TinyConfig(), 0));
  MoveAdapters(adapted);
  const std::string saved = Save(*adapted.model, "/lora", files);
  OneRank merged(TinyConfig()), base(TinyConfig());
  for (OneRank* rank : {&merged, &base}) {
    LoadOptions options;
    options.weights_only = true;
    options.merge_adapters = rank == &merged;
    const auto state = LoadState(*rank->model, saved, options, files);
    ASSERT_TRUE(state.ok()) << state.status();
    rank->LoadRandomBatch(3);
  }
  const double expected = adapted.Evaluate().loss;
  // The sums are taken in another order: losses near 3 after some dozen roundings of 2^-24.
  EXPECT_NEAR(merged.Evaluate().loss, expected, 2e-6);
  EXPECT_GT(std::abs(base.Evaluate().loss - expected), 1e-3);
}

TEST(Lora, ACheckpointOfAnotherRunGivesTheWeightsAndAdaptersBeginAnew) {
  checkpoints::MemoryFileSystem files;
  OneRank base(TinyConfig());
  MoveAdapters(base);
  const std::string saved = Save(*base.model, "/base", files);
  OneRank adapted(LoraRun(TinyConfig(), 0));
  LoadOptions options;
  options.weights_only = options.merge_adapters = true;
  const auto state = LoadState(*adapted.model, saved, options, files);
  ASSERT_TRUE(state.ok()) << state.status();
  adapted.LoadRandomBatch(3);
  EXPECT_EQ(adapted.Evaluate().loss, base.Evaluate().loss);
  double size = 0;
  adapted.ForEachPiece([&](const NamedPiece& piece, float* master, const float*) {
    if (absl::StrContains(piece.name, "lora_A")) size += std::abs(master[0]);
  });
  EXPECT_GT(size, 0);
}

TEST(Lora, AStateMovesToAnyMesh) {
  checkpoints::MemoryFileSystem files;
  RunConfig config = LoraRun(SmallConfig("BF16"), 0.1);
  std::string first;
  {
    OneRank one(config);
    one.LoadRandomBatch(3);
    one.Train(0.01);
    first = Save(*one.model, "/one", files);
  }
  const auto digest = [&](const std::string& generation) {
    auto reader = checkpoints::CheckpointReader::Open(files, generation);
    CHECK(reader.ok());
    return checkpoints::DigestOfCheckpoint(**reader)->ToString();
  };
  EXPECT_THAT(digest(first), HasSubstr("state lora_scale = 1.5"));
  EXPECT_THAT(digest(first), HasSubstr("weight/model.layers.2.mlp.gate.weight  bf16"));
  for (const Layout& layout : {Layout{.data = 4, .expert = 2}, Layout{.pipe = 2, .data = 2}}) {
    config.mutable_mesh()->set_pipe(layout.pipe);
    config.mutable_mesh()->set_data(layout.data);
    config.mutable_mesh()->set_expert(layout.expert);
    const RunConfig resolved = *Resolve(config, layout.world());
    std::mutex mutex;
    std::string second;
    sluice::testing::RunThreadRanks(
        layout.world(), kernels::CpuStreamMode::kInline,
        [&](parallel::Communicator& group, kernels::DeviceContext& device) {
          auto model = RankModel::Create(resolved, {.world = &group, .device = &device});
          ASSERT_TRUE(model.ok()) << model.status();
          ASSERT_TRUE(LoadState(**model, first, LoadOptions(), files).ok());
          const std::string saved = Save(**model, "/" + layout.Name(), files);
          const std::lock_guard<std::mutex> lock(mutex);
          second = saved;
        });
    EXPECT_EQ(digest(second), digest(first)) << layout.Name();
  }
}

TEST(Lora, BadOptionsAreRefused) {
  RunConfig config = LoraRun(TinyConfig(), 0);
  config.mutable_finetune()->mutable_lora()->set_rank(0);
  EXPECT_EQ(Resolve(config, 1).status().message(),
            "finetune.lora.rank: found 0, wanted at least 1");
  config = LoraRun(TinyConfig(), 1.5);
  EXPECT_EQ(Resolve(config, 1).status().message(),
            "finetune.lora.dropout: found 1.5, wanted 0 <= dropout < 1");
  config = LoraRun(TinyConfig(), 0);
  config.mutable_finetune()->mutable_lora()->set_targets("experts\\.1\\.up_proj");
  const RunConfig resolved = *Resolve(config, 1);
  const auto world = parallel::CreateSelfCommunicator();
  auto device = kernels::DeviceContext::Create({});
  ASSERT_TRUE(device.ok());
  const auto model = RankModel::Create(resolved, {.world = world.get(), .device = device->get()});
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("found model.layers.1.mlp.experts.up_proj of 1 experts of 4"));
}

}  // namespace
}  // namespace sluice::trainer
