// Defaults and refusals of a whole run's configuration.
#include "trainer/loop/resolve_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/util/message_differencer.h"
#include "tests/trainer/one_rank.h"

namespace sluice::trainer {
namespace {

using ::testing::HasSubstr;

TEST(Resolve, UnsetAxesAreOneAndDataFillsTheRanks) {
  RunConfig config = TinyConfig();
  config.mutable_train()->set_global_batch(24);
  for (const int ranks : {1, 2, 6}) {
    const auto resolved = Resolve(config, ranks);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    EXPECT_EQ(resolved->mesh().pipe(), 1);
    EXPECT_EQ(resolved->mesh().expert(), 1);
    EXPECT_EQ(resolved->mesh().data(), ranks);
  }
  config.mutable_mesh()->set_pipe(2);
  const auto resolved = Resolve(config, 6);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->mesh().data(), 3);
}

// Unset fields may only stay unset where that means something.
void ExpectAllSet(const google::protobuf::Message& message, const std::string& path) {
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto* field = message.GetDescriptor()->field(i);
    const std::string name = path + field->name();
    if (field->is_repeated() || name == "model.rope_scaling" || name == "run.init_from" ||
        name == "run.cluster" || name == "run.routes" ||
        name.rfind("data.", 0) == 0) {  // the data room resolves what it owns
      continue;
    }
    EXPECT_TRUE(message.GetReflection()->HasField(message, field)) << name;
    if (field->message_type() != nullptr)
      ExpectAllSet(message.GetReflection()->GetMessage(message, field), name + ".");
  }
}

TEST(Resolve, SetsEveryFieldAndResolvingAgainChangesNothing) {
  const auto resolved = Resolve(TinyConfig(), 2);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  ExpectAllSet(*resolved, "");
  const auto again = Resolve(*resolved, 2);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*resolved, *again));
}

TEST(Resolve, DefaultsFollowTheOtherFields) {
  RunConfig config = TinyConfig();
  config.set_schedule("InterLeaved");
  config.mutable_mesh()->set_data(1);
  config.mutable_train()->set_steps(500);
  config.mutable_run()->set_dir("somewhere");
  config.mutable_model()->set_kv_lora_rank(0);
  const auto resolved = Resolve(config, 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->schedule(), "interleaved");
  EXPECT_EQ(resolved->schedule_chunks(), 2);
  EXPECT_EQ(resolved->train().lr().warmup_steps(), 50);
  EXPECT_EQ(resolved->train().lr().decay_steps(), 100);
  EXPECT_EQ(resolved->data().cache_dir(), "somewhere/data");
  EXPECT_EQ(resolved->data().train_vocab_size(), 31);
  EXPECT_EQ(resolved->model().head_dim(), 12);
  EXPECT_EQ(resolved->model().num_key_value_heads(), 2);
  config.mutable_train()->set_steps(100000);
  EXPECT_EQ(Resolve(config, 1)->train().lr().warmup_steps(), 2000);
}

TEST(Resolve, TheOptimizersDefaultsAreTheRecipes) {
  const auto resolved = Resolve(TinyConfig(), 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->train().adam_beta1(), 0.9);
  EXPECT_EQ(resolved->train().adam_beta2(), 0.95);
  EXPECT_EQ(resolved->train().adam_eps(), 1e-8);
  EXPECT_EQ(resolved->train().weight_decay(), 0.1);
  EXPECT_EQ(resolved->train().moment_dtype(), "FP32");
  EXPECT_EQ(resolved->checkpoint().keep(), 3);
}

TEST(Resolve, NamesAreReadWithoutRegardToCaseAndStoredAsTheyAreWritten) {
  RunConfig config = TinyConfig();
  config.set_schedule("ZB_H1");
  config.mutable_compute()->set_precision("bf16");
  config.mutable_compute()->set_device("CPU");
  config.mutable_train()->set_moment_dtype("Fp32");
  config.mutable_train()->mutable_lr()->set_schedule("DeepSeek_V3");
  const auto resolved = Resolve(config, 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->schedule(), "zb_h1");
  EXPECT_EQ(resolved->compute().precision(), "BF16");
  EXPECT_EQ(resolved->compute().device(), "cpu");
  EXPECT_EQ(resolved->train().moment_dtype(), "FP32");
  EXPECT_EQ(resolved->train().lr().schedule(), "deepseek_v3");
}

struct Refusal {
  const char* name;
  int ranks;
  std::function<void(RunConfig&)> change;
  std::vector<const char*> words;  // in the message
};

const Refusal kRefusals[] = {
    {"mesh_does_not_multiply",
     4,
     [](RunConfig& c) {
       c.mutable_mesh()->set_pipe(2);
       c.mutable_mesh()->set_data(3);
     },
     {"mesh", "4", "2", "3"}},
    {"pipe_does_not_divide_the_ranks",
     3,
     [](RunConfig& c) { c.mutable_mesh()->set_pipe(2); },
     {"mesh", "3", "2"}},
    {"expert_does_not_divide_data",
     3,
     [](RunConfig& c) { c.mutable_mesh()->set_expert(2); },
     {"expert", "2", "3"}},
    {"expert_does_not_divide_the_experts",
     3,
     [](RunConfig& c) {
       c.mutable_mesh()->set_expert(3);
       c.mutable_train()->set_global_batch(6);
     },
     {"mesh.expert: found 3", "n_routed_experts = 4"}},
    {"axis_of_zero", 1, [](RunConfig& c) { c.mutable_mesh()->set_pipe(0); }, {"pipe", "0"}},
    {"batch_over_ranks",
     3,
     [](RunConfig& /*c*/) {},
     {"train.global_batch: found 4", "mesh.data * train.microbatch = 3 * 2"}},
    {"batch_over_microbatches",
     1,
     [](RunConfig& c) { c.mutable_train()->set_microbatch(3); },
     {"train.global_batch: found 4", "1 * 3"}},
    {"no_batch",
     1,
     [](RunConfig& c) { c.mutable_train()->set_global_batch(0); },
     {"train.global_batch: found 0", "at least 1"}},
    {"ramp_beyond_the_batch",
     1,
     [](RunConfig& c) { c.mutable_train()->set_batch_ramp_start(5); },
     {"train.batch_ramp_start: found 5"}},
    {"sequence_too_long",
     1,
     [](RunConfig& c) { c.mutable_train()->set_sequence_length(65); },
     {"train.sequence_length: found 65", "64"}},
    {"sequence_too_short",
     1,
     [](RunConfig& c) { c.mutable_train()->set_sequence_length(1); },
     {"train.sequence_length: found 1", "at least 2"}},
    {"mtp_deeper_than_the_sequence",
     1,
     [](RunConfig& c) { c.mutable_model()->set_num_nextn_predict_layers(7); },
     {"num_nextn_predict_layers", "7", "sequence_length"}},
    {"more_stages_than_layers",
     3,
     [](RunConfig& c) { c.mutable_mesh()->set_pipe(3); },
     {"found 3", "num_hidden_layers = 2"}},
    {"unknown_schedule",
     1,
     [](RunConfig& c) { c.set_schedule("2f2b"); },
     {"schedule: found \"2f2b\"", "1f1b", "dualpipe_v"}},
    {"interleaved_batch",
     2,
     [](RunConfig& c) {
       c.mutable_mesh()->set_pipe(2);
       c.mutable_model()->set_num_hidden_layers(4);
       c.mutable_train()->set_global_batch(6);
       c.set_schedule("interleaved");
     },
     {"microbatches: found 3", "mesh.pipe = 2"}},
    {"chunks_without_interleaving",
     1,
     [](RunConfig& c) { c.set_schedule_chunks(2); },
     {"schedule_chunks: found 2", "1f1b"}},
    {"unknown_precision",
     1,
     [](RunConfig& c) { c.mutable_compute()->set_precision("FP4"); },
     {"compute.precision: found \"FP4\"", "FP32, BF16, FP8"}},
    {"average_on_a_gpu",
     1,
     [](RunConfig& c) {
       c.mutable_compute()->set_device("cuda");
       c.mutable_train()->set_ema_decay(0.999);
     },
     {"train.ema_decay: found 0.999", "0 with compute.device cuda"}},
    {"adapters_in_fp8",
     1,
     [](RunConfig& c) {
       c.mutable_compute()->set_precision("FP8");
       c.mutable_finetune()->set_mode("lora");
     },
     {"compute.precision: found FP8", "finetune.mode lora", "compute.keep_fp8_weights"}},
    {"unknown_rate",
     1,
     [](RunConfig& c) { c.mutable_train()->mutable_lr()->set_schedule("step"); },
     {"train.lr.schedule: found \"step\""}},
    {"unknown_recompute",
     1,
     [](RunConfig& c) { c.mutable_compute()->set_recompute("norm,all"); },
     {"compute.recompute: found \"all\""}},
    {"keep_nothing",
     1,
     [](RunConfig& c) { c.mutable_checkpoint()->set_keep(0); },
     {"checkpoint.keep: found 0"}},
    {"beta_of_one",
     1,
     [](RunConfig& c) { c.mutable_train()->set_adam_beta2(1); },
     {"train.adam_beta2: found 1"}},
    {"rate_not_a_number",
     1,
     [](RunConfig& c) { c.mutable_train()->mutable_lr()->set_peak(std::nan("")); },
     {"train.lr.peak: found nan"}},
    {"negative_clip",
     1,
     [](RunConfig& c) { c.mutable_train()->set_clip_norm(-1); },
     {"train.clip_norm: found -1"}},
    {"negative_epsilon",
     1,
     [](RunConfig& c) { c.mutable_train()->set_adam_eps(-1); },
     {"train.adam_eps: found -1, wanted at least 0"}},
    {"threads_without_end",
     1,
     [](RunConfig& c) { c.mutable_compute()->set_threads(100000); },
     {"compute.threads: found 100000, wanted 0 to 1024"}},
    {"rate_above_one",
     1,
     [](RunConfig& c) { c.mutable_data()->set_fim_rate(2); },
     {"data.fim_rate: found 2, wanted 0 to 1"}},
    {"microbatch_beyond_any_memory",
     1,
     [](RunConfig& c) {
       c.mutable_train()->set_microbatch(1 << 22);
       c.mutable_train()->set_global_batch(1 << 22);
     },
     {"train.microbatch * train.sequence_length: found "}},
    {"ramp_without_steps",
     1,
     [](RunConfig& c) { c.mutable_train()->set_batch_ramp_start(1); },
     {"train.batch_ramp_steps: found 0"}},
    {"cublaslt_without_a_gpu",
     1,
     [](RunConfig& c) { c.mutable_compute()->set_matmul_kernels("cublaslt"); },
     {"compute.matmul_kernels: found cublaslt, wanted auto with compute.device cpu"}},
    {"cudnn_without_a_gpu",
     1,
     [](RunConfig& c) { c.mutable_compute()->set_attention_kernels("cuDNN"); },
     {"compute.attention_kernels: found cudnn, wanted auto with compute.device cpu"}},
    {"cublaslt_in_fp32",
     1,
     [](RunConfig& c) {
       c.mutable_compute()->set_device("cuda");
       c.mutable_compute()->set_precision("FP32");
       c.mutable_compute()->set_matmul_kernels("cublaslt");
     },
     {"compute.matmul_kernels: found cublaslt, wanted auto with compute.precision FP32"}},
    {"cudnn_with_documents",
     1,
     [](RunConfig& c) {
       c.mutable_compute()->set_device("cuda");
       c.mutable_compute()->set_precision("BF16");
       c.mutable_compute()->set_attention_kernels("cudnn");
       c.mutable_data()->set_document_mask(true);
     },
     {"compute.attention_kernels: found cudnn, wanted auto with data.document_mask"}},
    {"no_vocabulary",
     1,
     [](RunConfig& c) { c.mutable_model()->clear_vocab_size(); },
     {"model.vocab_size: found 0"}},
};

class ResolveRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(ResolveRefuses, InOneSentenceWithFieldFoundAndWanted) {
  RunConfig config = TinyConfig();
  GetParam().change(config);
  const auto resolved = Resolve(config, GetParam().ranks);
  ASSERT_FALSE(resolved.ok());
  EXPECT_EQ(resolved.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(resolved.status().message());
  for (const char* word : GetParam().words) EXPECT_THAT(message, HasSubstr(word));
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(All, ResolveRefuses, ::testing::ValuesIn(kRefusals),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Resolve, DualPipeVHoldsTwoStagesARank) {
  RunConfig config = TinyConfig();
  config.set_schedule("DualPipe_V");
  const auto resolved = Resolve(config, 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->schedule(), "dualpipe_v");
  EXPECT_EQ(resolved->schedule_chunks(), 2);
}

TEST(Resolve, WhatDualPipeCannotRunIsRefusedAtOnce) {
  RunConfig config = TinyConfig();
  config.set_schedule("dualpipe");
  EXPECT_THAT(std::string(Resolve(config, 1).status().message()), HasSubstr("even number"));
  config.mutable_mesh()->set_pipe(2);  // two microbatches
  EXPECT_THAT(std::string(Resolve(config, 2).status().message()), HasSubstr("at least 2 * mesh"));
}

// The message for this stage_layers with three layers on two ranks.
std::string StageLayersError(const std::string& text) {
  RunConfig config = TinyConfig();
  config.mutable_model()->set_num_hidden_layers(3);
  config.mutable_mesh()->set_pipe(2);
  config.set_stage_layers(text);
  return std::string(Resolve(config, 2).status().message());
}

TEST(Resolve, StageLayersThatDoNotFitAreNamed) {
  EXPECT_EQ(StageLayersError("2,1"), "");
  EXPECT_EQ(StageLayersError("0,3"), "");
  EXPECT_EQ(StageLayersError("3,0"), "");
  EXPECT_EQ(StageLayersError("1,1,1"),
            "stage_layers: found \"1,1,1\", wanted mesh.pipe * schedule_chunks = 2 numbers");
  EXPECT_EQ(StageLayersError("2,2"),
            "stage_layers: found \"2,2\", wanted a sum of model.num_hidden_layers = 3, not 4");
  for (const char* text : {"2,x", "4,-1", "2,,1", "3000000000,0"}) {
    EXPECT_THAT(StageLayersError(text), HasSubstr("wanted numbers of layers separated by commas"))
        << text;
  }
}

// Else the first step of the ramp whose batch does not fit would end the run.
TEST(MakeBatchRamp, EveryBatchFitsTheSchedule) {
  RunConfig config = TinyConfig();
  config.mutable_model()->set_num_hidden_layers(4);
  config.set_schedule("Interleaved");
  config.mutable_mesh()->set_pipe(2);
  config.mutable_train()->set_global_batch(40);
  config.mutable_train()->set_batch_ramp_start(6);
  config.mutable_train()->set_batch_ramp_steps(9);
  const auto resolved = Resolve(config, 4);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const BatchRamp ramp = MakeBatchRamp(*resolved);
  for (int64_t step = 1; step <= 12; ++step) {
    EXPECT_EQ(BatchSize(ramp, step) % (2 * 2 * 2), 0) << step;  // pipe * data * microbatch
    EXPECT_GE(BatchSize(ramp, step), 8);
  }
}

TEST(ParseRecompute, TakesAnyCombination) {
  EXPECT_FALSE(ParseRecompute("none")->norm);
  EXPECT_FALSE(ParseRecompute("")->swiglu);
  const auto two = ParseRecompute("norm, swiglu");
  ASSERT_TRUE(two.ok());
  EXPECT_TRUE(two->norm && two->swiglu && !two->mla_up);
  EXPECT_TRUE(ParseRecompute("mla_up")->mla_up);
}

}  // namespace
}  // namespace sluice::trainer
