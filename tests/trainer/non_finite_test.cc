// A number that is not finite, anywhere on any rank: every rank skips the whole update, nothing of
// the state moves, and once the number is gone training goes on as if the step had not been.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <string>
#include <thread>

#include "tests/trainer/one_rank.h"
#include "tests/trainer/small_run.h"

namespace sluice::trainer {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  const char* name;
  const char* tensor;  // named tensor whose first element becomes `value`
  float value;
  Layout layout;
};

const Case kCases[] = {
    {"nan_embedding", "model.embed_tokens.weight", kNan, {.data = 2}},
    {"nan_expert_of_one_rank",
     "model.layers.1.mlp.experts.0.down_proj.weight",
     kNan,
     {.data = 2, .expert = 2}},
    {"nan_gate", "model.layers.1.mlp.gate.weight", kNan, {.data = 2, .expert = 2}},
    {"infinite_gate", "model.layers.1.mlp.gate.weight", -kInfinity, {.data = 2, .expert = 2}},
    {"infinite_norm", "model.norm.weight", kInfinity, {.pipe = 2}},
    {"nan_first_stage", "model.layers.0.input_layernorm.weight", kNan, {.pipe = 2}},
    {"nan_head_only_on_the_last_stage", "lm_head.weight", kNan, {.pipe = 2}},
    // Only MTP's loss sees it.
    {"nan_mtp", "model.layers.2.eh_proj.weight", kNan, {.pipe = 2}},
    // FP32's largest overflows in the logits.
    {"overflow_head", "lm_head.weight", 3e38f, {.data = 2}},
};

// Everything a step may change, on one rank.
std::string StateOf(RankModel& model) {
  std::string state;
  const auto append = [&](ConstTensorView view) {
    state.append(static_cast<const char*>(view.raw_data()),
                 view.num_elements() * kernels::SizeOf(view.dtype()));
  };
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    append(model.store().values(group));
    if (parallel::ShardedAdamW* optimizer = model.optimizer(group)) {
      append(optimizer->master());
      append(optimizer->first_moment());
      append(optimizer->second_moment());
    }
  }
  for (const auto& stage : model.stages()) {
    for (const auto& gate : stage->gates()) append(gate.layer->bias());
  }
  return state;
}

// The first element of the named tensor in this rank's master shard, or null.
float* FirstElement(RankModel& model, const std::string& name) {
  float* found = nullptr;
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    parallel::ShardedAdamW* optimizer = model.optimizer(group);
    if (optimizer == nullptr) continue;
    float* master = optimizer->master().mutable_data<float>();
    model.store().ForEachRun(group, optimizer->shard_begin(), optimizer->shard_end(),
                             [&](const Parameter& parameter, const NamedPiece& piece,
                                 int64_t named_begin, int64_t flat_begin, int64_t /*count*/) {
                               if (piece.name != name || named_begin != 0 || parameter.tied_copy)
                                 return;
                               found = master + (flat_begin - optimizer->shard_begin());
                             });
  }
  return found;
}

HostBatch Tokens(const RunConfig& config, int64_t first, int64_t count) {
  HostBatch host;
  const int64_t row = config.train().sequence_length() + 1;
  for (int64_t i = first * row; i < (first + count) * row; ++i)
    host.tokens.push_back(static_cast<int32_t>((i * 7 + i * i / 3) % 31));  // 0 is among them
  host.document_starts.resize(count);
  host.num_targets.assign(count, row - 1);
  return host;
}

class NonFinite : public ::testing::TestWithParam<std::tuple<Case, const char*>> {};

void RunRank(const Case& test, const RunConfig& config, parallel::Communicator& world,
             std::atomic<int>& planted) {
  auto device = kernels::DeviceContext::Create({});
  ASSERT_TRUE(device.ok());
  RankContext rank;
  rank.world = &world;
  rank.device = device->get();
  auto created = RankModel::Create(config, rank);
  ASSERT_TRUE(created.ok()) << created.status();
  RankModel& model = **created;
  ASSERT_TRUE(model.InitializeWeights().ok());
  DeviceBatch batch(**device, {.sequence_length = config.train().sequence_length(),
                               .microbatch = config.train().microbatch(),
                               .mtp_depth = config.model().num_nextn_predict_layers()});
  const int64_t mine = config.train().global_batch() / config.mesh().data();
  ASSERT_TRUE(
      batch.Load(Tokens(config, mine * model.data_rank(), mine), mine * model.data_rank()).ok());
  StepOptions options;
  options.global_sequences = config.train().global_batch();
  options.learning_rate = 1e-3;
  const auto before = TrainStep(model, batch, options);  // moments that are not zero
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_FALSE(before->skipped);

  float* element = FirstElement(model, test.tensor);
  const float good = element != nullptr ? *element : 0;
  if (element != nullptr) {
    *element = test.value;
    ++planted;
  }
  ASSERT_TRUE(model.PublishWeights().ok());
  const std::string state = StateOf(model);
  options.update = 2;
  for (int repeat = 0; repeat < 2; ++repeat) {
    const auto skipped = TrainStep(model, batch, options);
    ASSERT_TRUE(skipped.ok()) << skipped.status();
    EXPECT_TRUE(skipped->skipped) << "rank " << world.rank();
    EXPECT_TRUE(StateOf(model) == state) << "rank " << world.rank() << ": the state moved";
    int64_t routed = 0;  // every token still has its experts
    for (int64_t count : skipped->load) routed += count;
    EXPECT_EQ(routed, model.num_gates() * config.model().num_experts_per_tok() *
                          config.train().global_batch() * config.train().sequence_length());
  }
  if (element != nullptr) *element = good;
  ASSERT_TRUE(model.PublishWeights().ok());
  const auto after = TrainStep(model, batch, options);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_FALSE(after->skipped);
  EXPECT_LT(after->loss, before->loss);  // the same tokens again, one step wiser
}

TEST_P(NonFinite, SkipsTheWholeUpdateOnEveryRank) {
  const auto& [test, precision] = GetParam();
  RunConfig config = TinyConfig();
  config.mutable_model()->set_num_nextn_predict_layers(1);
  config.mutable_train()->set_bias_update_speed(0.01);
  config.mutable_compute()->set_precision(precision);
  config.mutable_mesh()->set_pipe(test.layout.pipe);
  config.mutable_mesh()->set_data(test.layout.data);
  config.mutable_mesh()->set_expert(test.layout.expert);
  const auto resolved = Resolve(config, test.layout.world());
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  auto worlds = parallel::CreateThreadCommunicators(test.layout.world());
  std::atomic<int> planted = 0;
  std::vector<std::thread> ranks;
  for (auto& world : worlds) {
    ranks.emplace_back(
        [&, this_world = world.get()] { RunRank(test, *resolved, *this_world, planted); });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(planted, 1);
}

INSTANTIATE_TEST_SUITE_P(All, NonFinite,
                         ::testing::Combine(::testing::ValuesIn(kCases),
                                            ::testing::Values("FP32", "BF16")),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) + "_" +
                                  std::get<1>(info.param);
                         });

}  // namespace
}  // namespace sluice::trainer
