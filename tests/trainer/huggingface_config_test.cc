// config.json to ModelConfig and back; tensors by name against the modules and the published
// counts.
#include "trainer/model/huggingface_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "google/protobuf/text_format.h"
#include "nlohmann/json.hpp"
#include "tests/support/source_path.h"
#include "tests/trainer/huggingface_case.h"
#include "tests/trainer/one_rank.h"
#include "trainer/loop/run_config.pb.h"
#include "trainer/model/model_config.h"
#include "trainer/model/named_tensors.h"

namespace sluice::trainer {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

std::string Vector(const std::string& name) {
  return data::Slurp(testing::SourcePath("tests/golden/vectors/hf_config_") + name + ".json");
}

ModelConfig Preset(const std::string& name) {
  RunConfig config;
  const std::string text =
      data::Slurp(testing::SourcePath("launch/presets/") + name + ".textproto");
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &config)) << name;
  ResolveModel(*config.mutable_model());
  return config.model();
}

// What presets choose otherwise than the released files: training only.
std::string WithoutTraining(ModelConfig config) {
  config.clear_initializer_range();
  config.clear_aux_loss_alpha();
  config.clear_router_aux_loss_coef();
  config.clear_router_z_loss_coef();
  // Of no meaning where it has none.
  if (config.first_k_dense_replace() == 0) config.clear_intermediate_size();
  if (config.kv_lora_rank() > 0) config.clear_head_dim();
  return config.DebugString();
}

class ReleasedConfig : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(ReleasedConfig, IsThePresetAndComesBack) {
  const auto [file, preset] = GetParam();
  const auto parsed = ParseHuggingFaceConfig(Vector(file));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->keys.size() >= Json::parse(Vector(file)).size(), true);
  EXPECT_EQ(parsed->is_fp8, std::string(file) == "deepseek_v3");
  if (*preset != '\0') {
    EXPECT_EQ(WithoutTraining(parsed->model), WithoutTraining(Preset(preset)));
  }
  const auto text = MakeHuggingFaceConfig(parsed->model, {.is_fp8 = parsed->is_fp8});
  ASSERT_TRUE(text.ok()) << text.status();
  const auto back = ParseHuggingFaceConfig(*text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(SameModel(back->model, parsed->model));
  EXPECT_EQ(back->is_fp8, parsed->is_fp8);
}

INSTANTIATE_TEST_SUITE_P(All, ReleasedConfig,
                         ::testing::Values(std::make_pair("deepseek_v3", "deepseek_v3"),
                                           std::make_pair("deepseek_v2", ""),
                                           std::make_pair("deepseek_v2_lite", "deepseek_v2_lite"),
                                           std::make_pair("moonlight_16b_a3b", "moonlight"),
                                           std::make_pair("qwen3_30b_a3b", "qwen3_30b_a3b"),
                                           std::make_pair("mixtral_8x7b", "mixtral_8x7b"),
                                           std::make_pair("olmoe_1b_7b", "olmoe_1b_7b")),
                         [](const auto& info) { return std::string(info.param.first); });

// Moonshot's shape under Moonshot's name, with the counts of the release (1 T parameters); an
// export that edits the source's file leaves the name as it was.
TEST(HuggingFaceConfig, KimiK2IsADeepSeekV3OfItsOwnName) {
  Json json = Json::parse(Vector("deepseek_v3"));
  json.merge_patch({{"model_type", "kimi_k2"},
                    {"vocab_size", 163840},
                    {"num_attention_heads", 64},
                    {"num_key_value_heads", 64},
                    {"n_routed_experts", 384},
                    {"n_group", 1},
                    {"topk_group", 1},
                    {"first_k_dense_replace", 1},
                    {"routed_scaling_factor", 2.827},
                    {"rope_theta", 50000.0},
                    {"rope_scaling", {{"factor", 32.0}, {"beta_fast", 1.0}}},
                    {"max_position_embeddings", 131072},
                    {"num_nextn_predict_layers", 0}});
  const auto parsed = ParseHuggingFaceConfig(json.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->model.model_type(), "deepseek_v3");
  double parameters = 0;
  for (const auto& tensor : MakeTensorMap(parsed->model)) {
    double count = 1;
    for (const int64_t extent : tensor.shape) count *= static_cast<double>(extent);
    parameters += count;
  }
  EXPECT_NEAR(parameters / 1e12, 1.03, 0.005);
  const auto edited = EditHuggingFaceConfig(json.dump(), parsed->model, {.is_fp8 = true}, true);
  ASSERT_TRUE(edited.ok()) << edited.status();
  EXPECT_EQ(Json::parse(*edited), json);
  json["model_type"] = "deepseek_v3";
  EXPECT_EQ(ParseHuggingFaceConfig(json.dump())->model.DebugString(), parsed->model.DebugString());
}

// The parsed file with one key changed, or what is said against it.
std::string MessageWith(const std::string& file, const Json& change) {
  Json json = Json::parse(Vector(file));
  json.merge_patch(change);
  const auto parsed = ParseHuggingFaceConfig(json.dump());
  return parsed.ok() ? "" : std::string(parsed.status().message());
}

TEST(HuggingFaceConfig, RefusesByKeyWhatItCannotDo) {
  const std::string v3 = "deepseek_v3";
  EXPECT_EQ(MessageWith(v3, {{"hidden_act", "gelu"}}),
            "config.json: hidden_act: found \"gelu\", wanted \"silu\"");
  EXPECT_EQ(MessageWith(v3, {{"attention_bias", true}}),
            "config.json: attention_bias: found true, wanted false");
  EXPECT_EQ(MessageWith(v3, {{"vocab_size", "many"}}),
            "config.json: vocab_size: found \"many\", wanted an integer from 0 to 2147483647");
  EXPECT_EQ(MessageWith(v3, {{"kv_lora_rank", nullptr}}),
            "config.json: kv_lora_rank: found nothing, wanted an integer");
  EXPECT_THAT(MessageWith(v3, {{"index_topk", 2048}}),
              HasSubstr("config.json: index_topk: found 2048, wanted no key that this program"));
  EXPECT_THAT(MessageWith(v3, {{"model_type", "deepseek_v4"}}), HasSubstr("\"deepseek_v4\""));
  EXPECT_THAT(MessageWith(v3, {{"topk_method", "greedy"}}), HasSubstr("topk_method"));
  EXPECT_THAT(MessageWith(v3, {{"scoring_func", "softmax"}}), HasSubstr("scoring_func"));
  EXPECT_THAT(MessageWith(v3, {{"moe_layer_freq", 2}}), HasSubstr("moe_layer_freq"));
  EXPECT_THAT(MessageWith(v3, {{"rope_scaling", {{"type", "linear"}}}}),
              HasSubstr("rope_scaling.rope_type"));
  EXPECT_THAT(MessageWith(v3, {{"rope_scaling", {{"mscale", nullptr}}}}),
              HasSubstr("rope_scaling.mscale"));
  EXPECT_THAT(MessageWith(v3, {{"rope_scaling", {{"ntk", 1}}}}), HasSubstr("rope_scaling.ntk"));
  EXPECT_THAT(MessageWith(v3, {{"quantization_config", {{"weight_block_size", {64, 64}}}}}),
              HasSubstr("quantization_config.weight_block_size: found [64,64]"));
  EXPECT_THAT(MessageWith("qwen3_30b_a3b", {{"mlp_only_layers", {3}}}),
              HasSubstr("mlp_only_layers"));
  EXPECT_THAT(MessageWith("qwen3_30b_a3b", {{"decoder_sparse_step", 2}}),
              HasSubstr("decoder_sparse_step"));
  EXPECT_THAT(MessageWith("mixtral_8x7b", {{"sliding_window", 4096}}), HasSubstr("sliding_window"));
  EXPECT_THAT(MessageWith("olmoe_1b_7b", {{"clip_qkv", 8.0}}), HasSubstr("clip_qkv"));
  EXPECT_EQ(MessageWith("mixtral_8x7b", {{"sliding_window", nullptr}}), "");
  EXPECT_THAT(ParseHuggingFaceConfig("{\"a\": 1, \"a\": 2}").status().message(),
              HasSubstr("a is there twice"));
  EXPECT_THAT(ParseHuggingFaceConfig("[]").status().message(), HasSubstr("no JSON object"));
  EXPECT_THAT(ParseHuggingFaceConfig("{\"hidden_act\": " + std::string(200000, '[') +
                                     std::string(200000, ']') + "}")
                  .status()
                  .message(),
              HasSubstr("nests too deeply"));
  Json json = Json::parse(Vector(v3));
  json["index_topk"] = 1;
  EXPECT_TRUE(ParseHuggingFaceConfig(json.dump(), {"index_topk"}).ok());
}

TEST(HuggingFaceConfig, NewFilesSayRopeInOneObject) {
  Json json = Json::parse(Vector("deepseek_v3"));
  const auto old_way = ParseHuggingFaceConfig(json.dump());
  json["rope_parameters"] = json["rope_scaling"];
  json["rope_parameters"]["rope_type"] = "yarn";
  json["rope_parameters"]["rope_theta"] = 10000.0;
  json.erase("rope_scaling");
  json.erase("rope_theta");
  json["dtype"] = json["torch_dtype"];
  json.erase("torch_dtype");
  const auto new_way = ParseHuggingFaceConfig(json.dump());
  ASSERT_TRUE(new_way.ok()) << new_way.status();
  EXPECT_EQ(new_way->model.DebugString(), old_way->model.DebugString());
  json["rope_theta"] = 5;
  EXPECT_THAT(ParseHuggingFaceConfig(json.dump()).status().message(), HasSubstr("rope_theta"));
}

TEST(HuggingFaceConfig, AModelThatItsFamilyCannotSayIsRefusedByField) {
  ModelConfig config = Preset("qwen3_30b_a3b");
  config.set_n_shared_experts(1);
  EXPECT_EQ(MakeHuggingFaceConfig(config, {}).status().message(),
            "model.n_shared_experts: found 1, wanted 0, as every model of the family qwen3_moe has "
            "on disk");
  config = Preset("mixtral_8x7b");
  config.set_qk_norm("head");
  EXPECT_THAT(MakeHuggingFaceConfig(config, {}).status().message(), HasSubstr("model.qk_norm"));
  EXPECT_TRUE(MakeHuggingFaceConfig(Preset("laptop"), {}).ok());
  EXPECT_TRUE(MakeHuggingFaceConfig(Preset("tiny"), {}).ok());
}

// Other programs take every linear layer for FP8 that is not named here, and a family's own ids
// where config.json has none.
TEST(HuggingFaceConfig, NamesWhatIsNotFp8AndTheTokenizersIds) {
  const auto made = [](const ModelConfig& model) {
    const auto text = MakeHuggingFaceConfig(model, {.is_fp8 = true, .bos_id = -1, .eos_id = 7});
    EXPECT_TRUE(text.ok()) << text.status();
    return Json::parse(*text);
  };
  ModelConfig qwen = Preset("qwen3_30b_a3b"), mixtral = Preset("mixtral_8x7b");
  for (ModelConfig* model : {&qwen, &mixtral}) model->set_num_hidden_layers(3);
  qwen.set_first_k_dense_replace(1);
  qwen.set_intermediate_size(768);
  EXPECT_EQ(made(qwen)["quantization_config"]["modules_to_not_convert"],
            Json({"lm_head", "model.layers.1.mlp.gate", "model.layers.2.mlp.gate"}));
  EXPECT_EQ(made(mixtral)["quantization_config"]["modules_to_not_convert"],
            Json({"lm_head", "model.layers.0.block_sparse_moe.gate",
                  "model.layers.1.block_sparse_moe.gate", "model.layers.2.block_sparse_moe.gate"}));
  const Json laptop = made(Preset("laptop"));
  EXPECT_FALSE(laptop["quantization_config"].contains("modules_to_not_convert"));
  EXPECT_TRUE(laptop.at("bos_token_id").is_null());
  EXPECT_EQ(laptop.at("eos_token_id"), 7);
}

// The source's own file, edited: what an export changes, and nothing else.
TEST(HuggingFaceConfig, AnEditFollowsTheTypesOfTheExport) {
  ModelConfig model = Preset("qwen3_30b_a3b");
  model.set_num_hidden_layers(2);
  const Json gates = {"lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate"};
  const auto edit = [&](const Json& source, const HuggingFaceExport& options, bool keep_dtype) {
    const auto text = EditHuggingFaceConfig(source.dump(), model, options, keep_dtype);
    EXPECT_TRUE(text.ok()) << text.status();
    return Json::parse(*text);
  };
  Json plain = Json::parse(*MakeHuggingFaceConfig(model, {}));
  plain["transformers_version"] = "4.51.0";
  Json wanted = plain;
  EXPECT_EQ(edit(plain, {.is_fp8 = false}, true), plain);
  wanted["quantization_config"] = {{"activation_scheme", "dynamic"},
                                   {"fmt", "e4m3"},
                                   {"quant_method", "fp8"},
                                   {"weight_block_size", {128, 128}},
                                   {"modules_to_not_convert", gates}};
  EXPECT_EQ(edit(plain, {.is_fp8 = true}, false), wanted);
  // A source in FP8 that left more than the gates as it was, and has a key of its own.
  Json source = wanted;
  source["quantization_config"]["modules_to_not_convert"] = {"lm_head", "model.layers.0.mlp.gate",
                                                             "model.layers.0.self_attn.q_proj"};
  source["quantization_config"]["scale_fmt"] = "float";
  EXPECT_EQ(edit(source, {.is_fp8 = true}, true), source);  // tensors keep their types
  wanted["quantization_config"]["scale_fmt"] = "float";
  EXPECT_EQ(edit(source, {.is_fp8 = true}, false), wanted);  // all projections become FP8
  EXPECT_EQ(edit(source, {.is_fp8 = false}, false), plain);
  // DeepSeek's files name nothing.
  model = Preset("deepseek_v3");
  const Json deepseek = Json::parse(*MakeHuggingFaceConfig(model, {.is_fp8 = true}));
  EXPECT_EQ(edit(deepseek, {.is_fp8 = true}, false), deepseek);
  Json without = deepseek;
  without.erase("quantization_config");
  EXPECT_EQ(edit(without, {.is_fp8 = true}, false), deepseek);
}

TEST(NamedTensors, AddUpToThePublishedCounts) {
  std::ifstream file(testing::SourcePath("tests/golden/vectors/param_counts.json"));
  const nlohmann::json wanted = nlohmann::json::parse(file);
  for (const auto& [preset, key] :
       {std::pair<const char*, const char*>{"deepseek_v3", "deepseek_v3"},
        {"deepseek_v2_lite", "deepseek_v2_lite"},
        {"moonlight", "moonlight_16b_a3b"},
        {"qwen3_30b_a3b", "qwen3_30b_a3b"},
        {"mixtral_8x7b", "mixtral_8x7b"},
        {"olmoe_1b_7b", "olmoe_1b_7b"}}) {
    ModelConfig config = Preset(preset);
    config.set_num_nextn_predict_layers(0);
    int64_t total = 0;
    for (const NamedTensor& tensor : ListTensors(config)) {
      int64_t count = 1;
      for (const int64_t extent : tensor.shape) count *= extent;
      total += count;
    }
    EXPECT_EQ(total, wanted[key]["total"].get<int64_t>()) << preset;
  }
}

// The list is written a second time apart from the modules; here they meet.
TEST(NamedTensors, AreThoseOfTheModules) {
  for (const char* name : {"deepseek_v3_mtp", "deepseek_v3_dense_3", "deepseek_v2_lite",
                           "qwen3_moe_yarn", "mixtral", "olmoe"}) {
    const std::string json =
        data::Slurp(testing::SourcePath("tests/golden/huggingface/") + name + "/config.json");
    const auto parsed = ParseHuggingFaceConfig(json);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    RunConfig config;
    *config.mutable_model() = parsed->model;
    config.mutable_train()->set_sequence_length(8);
    const OneRank rank(config);
    std::map<std::string, std::vector<int64_t>> modules, listed;
    for (const auto& parameter : rank.model->store().parameters()) {
      for (const NamedPiece& piece : parameter->pieces) modules[piece.name] = piece.shape;
    }
    for (const auto& stage : rank.model->stages()) {
      for (const auto& gate : stage->gates()) {
        if (gate.layer->has_bias())
          modules[gate.layer->prefix() + "e_score_correction_bias"] = {
              parsed->model.n_routed_experts()};
      }
    }
    for (const NamedTensor& tensor : ListTensors(rank.config.model())) {
      if (tensor.kind == TensorKind::kEmbedCopy || tensor.kind == TensorKind::kHeadCopy) continue;
      listed[tensor.name] = tensor.shape;
    }
    EXPECT_EQ(listed, modules) << name;
  }
}

}  // namespace
}  // namespace sluice::trainer
