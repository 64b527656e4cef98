#include "launch/load_config.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/presets.h"

namespace sluice::launch {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream(path) << text;
  return path;
}

// The message of what must fail.
std::string ErrorOf(const ConfigFlags& flags) {
  const auto config = LoadConfig(flags);
  EXPECT_FALSE(config.ok());
  const std::string message(config.status().message());
  EXPECT_EQ(message.find('\n'), std::string::npos) << "one sentence, one line: " << message;
  return message;
}

std::string ErrorOfEdit(const std::string& edit) {
  return ErrorOf({.preset = "tiny", .edits = {edit}});
}

TEST(LoadConfig, EveryPresetParsesAndSetsNoMesh) {
  std::set<std::string> names;
  for (const Preset& preset : Presets()) {
    const auto config = LoadConfig({.preset = preset.name});
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_FALSE(config->has_mesh()) << preset.name;
    EXPECT_GT(config->model().vocab_size(), 0) << preset.name;
    names.insert(preset.name);
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"bench_cpu", "bench_gpu", "deepseek_v2_lite", "deepseek_v3",
                                   "laptop", "mixtral_8x22b", "mixtral_8x7b", "moonlight",
                                   "olmoe_1b_7b", "qwen3_235b_a22b", "qwen3_30b_a3b", "tiny"}));
}

TEST(LoadConfig, LaptopHasWhatItPromises) {
  const auto config = LoadConfig({.preset = "laptop"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_GE(config->model().num_hidden_layers(), 8);
  EXPECT_EQ(config->model().first_k_dense_replace(), 1);
  EXPECT_EQ(config->model().n_routed_experts(), 16);
  EXPECT_EQ(config->model().num_nextn_predict_layers(), 1);
  EXPECT_GE(config->train().global_batch(), 16);
  EXPECT_TRUE(config->data().bundled_sample());
}

struct Shape {  // of a preset that tests and benchmarks are compared by
  const char* preset;
  std::vector<int64_t> numbers;
};

TEST(LoadConfig, TinyAndTheBenchmarksHaveTheirShapes) {
  const Shape shapes[] = {
      {"tiny", {256, 128, 2, 0, 8, 0, 2, 128, 4, 0, 64, 32, 16, 32, 0, 0}},
      {"bench_cpu", {8192, 256, 4, 1, 16, 1, 4, 256, 8, 96, 64, 32, 16, 32, 0, 0}},
      {"bench_gpu", {8192, 2048, 4, 1, 64, 2, 6, 1408, 16, 0, 512, 128, 64, 128, 0, 0}},
  };
  for (const Shape& shape : shapes) {
    const auto config = LoadConfig({.preset = shape.preset});
    ASSERT_TRUE(config.ok()) << config.status();
    const trainer::ModelConfig& m = config->model();
    EXPECT_EQ((std::vector<int64_t>{
                  m.vocab_size(), m.hidden_size(), m.num_hidden_layers(), m.first_k_dense_replace(),
                  m.n_routed_experts(), m.n_shared_experts(), m.num_experts_per_tok(),
                  m.moe_intermediate_size(), m.num_attention_heads(), m.q_lora_rank(),
                  m.kv_lora_rank(), m.qk_nope_head_dim(), m.qk_rope_head_dim(), m.v_head_dim(),
                  m.num_nextn_predict_layers(), m.tie_word_embeddings() ? 1 : 0}),
              shape.numbers)
        << shape.preset;
  }
  const auto bench = LoadConfig({.preset = "bench_cpu"});
  EXPECT_EQ(bench->model().intermediate_size(), 1024);
  EXPECT_EQ(bench->train().sequence_length(), 256);
  EXPECT_EQ(bench->train().global_batch(), 8);
}

TEST(LoadConfig, DeepSeekV3StepsOfEachPhaseAddUp) {
  const auto config = LoadConfig({.preset = "deepseek_v3"});
  ASSERT_TRUE(config.ok()) << config.status();
  const auto& train = config->train();
  // The ramp, linear in steps from 3072 to 15360 sequences, reads 469B tokens; 14.8T in all.
  const double per_sequence = train.sequence_length();
  const double ramp = train.batch_ramp_steps() * (3072 + 15360) / 2.0 * per_sequence;
  EXPECT_NEAR(ramp, 469e9, 0.001 * 469e9);
  const double rest = (train.steps() - train.batch_ramp_steps()) * 15360.0 * per_sequence;
  EXPECT_NEAR(ramp + rest, 14.8e12, 0.001 * 14.8e12);
  EXPECT_NEAR(train.lr().tail_steps() * 15360 * per_sequence, 167e9, 0.001 * 167e9);
  EXPECT_NEAR(train.lr().decay_steps() * 15360 * per_sequence, 4.3e12, 0.001 * 4.3e12);
}

TEST(LoadConfig, EditsOfEveryKindInOrder) {
  const auto config = LoadConfig(
      {.preset = "tiny",
       .edits = {"train.steps=7", "train.steps=9", "train.seed=18446744073709551615",
                 "train.lr.peak=1.5e-3", "model.tie_word_embeddings=true", "schedule=1f1b",
                 "run.dir=a=b c", "mesh.pipe=2", "eval.sample_prompt="}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->train().steps(), 9);
  EXPECT_EQ(config->train().seed(), 18446744073709551615u);
  EXPECT_EQ(config->train().lr().peak(), 1.5e-3);
  EXPECT_EQ(config->train().lr().schedule(), "constant") << "siblings stay";
  EXPECT_TRUE(config->model().tie_word_embeddings());
  EXPECT_EQ(config->schedule(), "1f1b");
  EXPECT_EQ(config->run().dir(), "a=b c") << "only the first = separates";
  EXPECT_EQ(config->mesh().pipe(), 2);
  EXPECT_TRUE(config->eval().has_sample_prompt());
  EXPECT_EQ(config->eval().sample_prompt(), "");
}

TEST(LoadConfig, AListBeginsAnewAndThenGrows) {
  const std::string path =
      WriteFile("list.textproto", "data { train { path: \"old\" weight: 2 } }");
  const auto config = LoadConfig({.file = path, .edits = {"data.train=a", "data.train=b"}});
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->data().train_size(), 2);
  EXPECT_EQ(config->data().train(0).path(), "a");
  EXPECT_FALSE(config->data().train(0).has_weight());
  EXPECT_EQ(config->data().train(1).path(), "b");
}

TEST(LoadConfig, AnEmptyFileIsAConfigurationOfNothing) {
  const auto config = LoadConfig({.file = WriteFile("empty.textproto", "")});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ByteSizeLong(), 0u);
}

TEST(LoadConfig, UnknownFieldsAreNamedWithTheNearestKnownOne) {
  EXPECT_THAT(ErrorOfEdit("train.stesp=3"),
              AllOf(HasSubstr("no field 'train.stesp'"), HasSubstr("did you mean 'train.steps'?")));
  EXPECT_THAT(ErrorOfEdit("trian.steps=3"),
              AllOf(HasSubstr("no field 'trian'"), HasSubstr("did you mean 'train'?")));
  EXPECT_THAT(ErrorOfEdit("precision=FP32"), HasSubstr("did you mean 'compute.precision'?"));
  EXPECT_THAT(ErrorOfEdit("train.batch=3"), HasSubstr("did you mean 'train.global_batch'?"));
  EXPECT_THAT(ErrorOfEdit("zzzzzz.y=3"),
              AllOf(HasSubstr("no field 'zzzzzz'"), Not(HasSubstr("did you mean"))));
}

TEST(LoadConfig, BadValuesSayWhatIsWanted) {
  EXPECT_THAT(ErrorOfEdit("train.steps=ten"),
              AllOf(HasSubstr("train.steps=ten"), HasSubstr("a whole number")));
  EXPECT_THAT(ErrorOfEdit("train.steps=1.5"), HasSubstr("a whole number"));
  EXPECT_THAT(ErrorOfEdit("mesh.pipe=4294967298"), HasSubstr("of 32 bits"));
  EXPECT_THAT(ErrorOfEdit("train.seed=-1"), HasSubstr("from 0"));
  EXPECT_THAT(ErrorOfEdit("train.lr.peak=fast"), HasSubstr("a number"));
  EXPECT_THAT(ErrorOfEdit("train.lr.peak=nan"), HasSubstr("a number"));
  EXPECT_THAT(ErrorOfEdit("model.norm_topk_prob=maybe"), HasSubstr("true or false"));
  EXPECT_THAT(ErrorOfEdit("train.steps="), HasSubstr("a whole number"));
  EXPECT_THAT(ErrorOfEdit("train.steps"), HasSubstr("wanted path.to.field=value"));
  EXPECT_THAT(ErrorOfEdit("=3"), HasSubstr("wanted path.to.field=value"));
  EXPECT_THAT(ErrorOfEdit("train=3"), HasSubstr("'train' is a group of fields, e.g. train.steps"));
  EXPECT_THAT(ErrorOfEdit("train.steps.more=3"), HasSubstr("'train.steps' is a value"));
  EXPECT_THAT(ErrorOfEdit("data.train.path=x"), HasSubstr("'data.train' is a list"));
}

TEST(LoadConfig, UnknownPresetsAndFilesAreNamed) {
  EXPECT_THAT(ErrorOf({.preset = "lapotp"}),
              AllOf(HasSubstr("no such preset"), HasSubstr("did you mean 'laptop'?")));
  EXPECT_THAT(ErrorOf({.file = "/nowhere/x.textproto"}),
              AllOf(HasSubstr("/nowhere/x.textproto"), HasSubstr("cannot read")));
  EXPECT_THAT(ErrorOf({.file = ::testing::TempDir()}), HasSubstr("cannot read"));
  EXPECT_THAT(ErrorOf({}), AllOf(HasSubstr("--preset"), HasSubstr("laptop")));
  EXPECT_THAT(ErrorOf({.preset = "tiny", .file = "x"}), HasSubstr("both given"));
}

TEST(LoadConfig, SyntaxErrorsNameFileAndLine) {
  const std::string path = WriteFile("bad.textproto", "train {\n  steps: 3\n  stesp: 4\n}\n");
  EXPECT_THAT(ErrorOf({.file = path}), AllOf(HasSubstr("bad.textproto:3: "), HasSubstr("stesp"),
                                             HasSubstr("Did you mean 'steps'?")));
  const std::string open = WriteFile("open.textproto", "train {\n  steps: 3\n");
  EXPECT_THAT(ErrorOf({.file = open}), HasSubstr("open.textproto:3: "));
  const std::string type = WriteFile("type.textproto", "\ntrain { steps: \"x\" }\n");
  EXPECT_THAT(ErrorOf({.file = type}), HasSubstr("type.textproto:2: "));
}

TEST(LoadConfig, EveryFieldPathCanBeSetFromTheCommandLine) {
  trainer::RunConfig config;
  for (const std::string& path : FieldPaths(*config.GetDescriptor())) {
    EXPECT_TRUE(ApplyEdits({path + "=1"}, config).ok()) << path;
  }
}

}  // namespace
}  // namespace sluice::launch
