#include "trainer/model/huggingface_config.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "trainer/model/huggingface_json.h"
#include "trainer/model/model_config.h"
#include "trainer/model/named_tensors.h"

namespace sluice::trainer {
namespace {

// Keys that say nothing about the numbers a forward or backward pass gives.
constexpr const char* kIrrelevant[] = {"architectures",     "auto_map",
                                       "use_cache",         "transformers_version",
                                       "_name_or_path",     "bos_token_id",
                                       "eos_token_id",      "pad_token_id",
                                       "pretraining_tp",    "ep_size",
                                       "initializer_range", "output_router_logits",
                                       "torchscript",       "max_window_layers",
                                       "id2label",          "label2id",
                                       "return_dict",       "output_attentions",
                                       "is_decoder",        "output_hidden_states",
                                       "problem_type",      "chunk_size_feed_forward"};

// rope_theta and rope_scaling of old files, rope_parameters of new ones.
void ParseRope(KeyReader& file, double default_theta, ModelConfig& model) {
  if (file.IsNull("rope_parameters")) {
    model.set_rope_theta(file.Number("rope_theta", default_theta));
    file.MustBeNull("rope_parameters");
  } else {
    file.MustAgree("rope_theta", "rope_parameters.rope_theta");
  }
  const char* parent = file.IsNull("rope_parameters") ? "rope_scaling" : "rope_parameters";
  if (file.IsNull(parent)) return file.MustBeNull(parent);
  KeyReader rope = file.Object(parent);
  if (std::string(parent) == "rope_parameters") {
    model.set_rope_theta(rope.Number("rope_theta", default_theta));
    file.MustBeNull("rope_scaling");
  }
  std::string type = rope.Text("rope_type", rope.Text("type", "default"));
  rope.MustBe("type", type);
  rope.MustBe("partial_rotary_factor", 1.0);
  if (type != "default" && type != "yarn") rope.Refuse("rope_type", "\"default\" or \"yarn\"");
  if (type == "yarn") {
    RopeScaling& yarn = *model.mutable_rope_scaling();
    yarn.set_type(type);
    yarn.set_factor(rope.Number("factor"));
    yarn.set_beta_fast(rope.Number("beta_fast", 32));
    yarn.set_beta_slow(rope.Number("beta_slow", 1));
    yarn.set_original_max_position_embeddings(rope.Int("original_max_position_embeddings"));
    rope.MustBe("truncate", true);
    rope.MustBeNull("attention_factor");
    // Without both, transformers scales cos and sin by 0.1 ln(factor) + 1 and softmax by nothing.
    const bool both = rope.Number("mscale", 0) != 0 && rope.Number("mscale_all_dim", 0) != 0;
    if (!both && (rope.Number("mscale", 0) != 0 || rope.Number("mscale_all_dim", 0) != 0)) {
      rope.Refuse("mscale", "mscale and mscale_all_dim together, or neither");
    }
    yarn.set_mscale(both ? rope.Number("mscale") : 1.0);
    yarn.set_mscale_all_dim(both ? rope.Number("mscale_all_dim") : 0.0);
  }
  file.Finish(rope);
}

void ParseCommon(KeyReader& file, double default_theta, ModelConfig& model) {
  model.set_vocab_size(file.Int("vocab_size"));
  model.set_hidden_size(file.Int("hidden_size"));
  model.set_num_hidden_layers(file.Int("num_hidden_layers"));
  model.set_num_attention_heads(file.Int("num_attention_heads"));
  model.set_num_key_value_heads(file.Int("num_key_value_heads", model.num_attention_heads()));
  model.set_num_experts_per_tok(file.Int("num_experts_per_tok"));
  model.set_max_position_embeddings(file.Int("max_position_embeddings"));
  model.set_rms_norm_eps(file.Number("rms_norm_eps"));
  model.set_initializer_range(file.Number("initializer_range", 0.02));
  model.set_tie_word_embeddings(file.Bool("tie_word_embeddings", false));
  file.MustBe("hidden_act", std::string("silu"));
  file.MustBe("attention_bias", false);
  file.MustBe("mlp_bias", false);
  file.MustBe("attention_dropout", 0.0);
  ParseRope(file, default_theta, model);
}

void ParseDeepSeekGate(KeyReader& file, bool is_v3, ModelConfig& model) {
  const auto one_of = [&](const char* key, const std::string& otherwise,
                          std::initializer_list<const char*> known) {
    const std::string found = file.Text(key, otherwise);
    for (const char* name : known) {
      if (found == name) return found;
    }
    file.Refuse(key, absl::StrCat("\"", *known.begin(), "\""));
    return found;
  };
  if (is_v3) {
    model.set_topk_method(one_of("topk_method", "noaux_tc", {"noaux_tc"}));
    model.set_scoring_func(one_of("scoring_func", "sigmoid", {"sigmoid"}));
  } else {
    model.set_topk_method(one_of("topk_method", "greedy", {"greedy", "group_limited_greedy"}));
    model.set_scoring_func(one_of("scoring_func", "softmax", {"softmax"}));
  }
  model.set_n_routed_experts(file.Int("n_routed_experts"));
  model.set_n_shared_experts(file.Int("n_shared_experts", 0));
  model.set_moe_intermediate_size(file.Int("moe_intermediate_size"));
  model.set_n_group(file.Int("n_group", 1));
  model.set_topk_group(file.Int("topk_group", 1));
  model.set_norm_topk_prob(file.Bool("norm_topk_prob", is_v3));
  model.set_routed_scaling_factor(file.Number("routed_scaling_factor", 1.0));
  model.set_first_k_dense_replace(file.Int("first_k_dense_replace", 0));
  file.MustBe("moe_layer_freq", int64_t{1});
  // The weight of a training loss; seq_aux false means another loss, which is then left off.
  const double alpha = file.Number("aux_loss_alpha", 0);
  if (file.Bool("seq_aux", true)) model.set_aux_loss_alpha(alpha);
}

void ParseDeepSeek(KeyReader& file, bool is_v3, ModelConfig& model) {
  ParseCommon(file, 10000.0, model);
  model.set_intermediate_size(file.Int("intermediate_size"));
  model.set_q_lora_rank(file.Int("q_lora_rank", 0));
  model.set_kv_lora_rank(file.Int("kv_lora_rank"));
  model.set_qk_nope_head_dim(file.Int("qk_nope_head_dim"));
  model.set_qk_rope_head_dim(file.Int("qk_rope_head_dim"));
  model.set_v_head_dim(file.Int("v_head_dim"));
  model.set_rope_interleave(file.Bool("rope_interleave", true));
  model.set_num_nextn_predict_layers(file.Int("num_nextn_predict_layers", 0));
  // Derived in newer files.
  file.MustBe("head_dim", int64_t{model.qk_rope_head_dim()});
  file.MustBe("qk_head_dim", int64_t{model.qk_nope_head_dim()} + model.qk_rope_head_dim());
  if (model.num_key_value_heads() != model.num_attention_heads()) {
    file.Refuse("num_key_value_heads", "num_attention_heads, as multi-head latent attention has");
  }
  ParseDeepSeekGate(file, is_v3, model);
}

void ParseSoftmaxGate(KeyReader& file, double default_coef, ModelConfig& model) {
  model.set_topk_method("greedy");
  model.set_scoring_func("softmax");
  model.set_router_aux_loss_coef(file.Number("router_aux_loss_coef", default_coef));
}

void ParseQwen3Moe(KeyReader& file, ModelConfig& model) {
  ParseCommon(file, 10000.0, model);
  ParseSoftmaxGate(file, 0.001, model);
  model.set_qk_norm("head");
  model.set_head_dim(file.Int("head_dim", model.hidden_size() / model.num_attention_heads()));
  model.set_n_routed_experts(
      file.Int(file.Has("num_experts") ? "num_experts" : "num_local_experts"));
  model.set_moe_intermediate_size(file.Int("moe_intermediate_size"));
  model.set_norm_topk_prob(file.Bool("norm_topk_prob", false));
  model.set_intermediate_size(file.Int("intermediate_size", 0));
  file.MustBe("decoder_sparse_step", int64_t{1});
  file.MustBe("use_sliding_window", false);
  file.Ignore("sliding_window", "use_sliding_window is false");
  const std::vector<int64_t> dense = file.Ints("mlp_only_layers");
  for (size_t i = 0; i < dense.size(); ++i) {
    if (dense[i] != static_cast<int64_t>(i)) {
      file.Refuse("mlp_only_layers", "the first layers of the model, ascending");
    }
  }
  model.set_first_k_dense_replace(static_cast<int>(dense.size()));
}

void ParseMixtral(KeyReader& file, ModelConfig& model) {
  ParseCommon(file, 1e6, model);
  ParseSoftmaxGate(file, 0.001, model);
  model.set_head_dim(file.Int("head_dim", model.hidden_size() / model.num_attention_heads()));
  model.set_n_routed_experts(file.Int("num_local_experts"));
  model.set_moe_intermediate_size(file.Int("intermediate_size"));
  model.set_intermediate_size(model.moe_intermediate_size());
  model.set_norm_topk_prob(true);
  file.MustBe("router_jitter_noise", 0.0);
  if (file.Int("sliding_window", std::numeric_limits<int32_t>::max()) <
      model.max_position_embeddings()) {
    file.Refuse("sliding_window", "null or at least max_position_embeddings");
  }
}

void ParseOlmoe(KeyReader& file, ModelConfig& model) {
  ParseCommon(file, 10000.0, model);
  ParseSoftmaxGate(file, 0.01, model);
  model.set_qk_norm("full");
  model.set_n_routed_experts(file.Int("num_experts"));
  model.set_moe_intermediate_size(file.Int("intermediate_size"));
  model.set_intermediate_size(model.moe_intermediate_size());
  model.set_norm_topk_prob(file.Bool("norm_topk_prob", false));
  file.MustBeNull("clip_qkv");
}

bool ParseQuantization(KeyReader& file) {
  if (file.IsNull("quantization_config")) {
    file.MustBeNull("quantization_config");
    return false;
  }
  KeyReader fp8 = file.Object("quantization_config");
  fp8.MustBe("quant_method", std::string("fp8"));
  fp8.MustBe("fmt", std::string("e4m3"));
  fp8.MustBe("activation_scheme", std::string("dynamic"));
  if (fp8.Ints("weight_block_size") != std::vector<int64_t>{128, 128}) {
    fp8.Refuse("weight_block_size", "[128, 128]");
  }
  // Its tensors' element types say the same.
  fp8.Ignore("modules_to_not_convert", "the tensors' element types say it");
  fp8.Ignore("scale_fmt", "scales are stored in FP32");
  file.Finish(fp8);
  return true;
}

}  // namespace

absl::StatusOr<HuggingFaceConfig> ParseHuggingFaceConfig(absl::string_view json,
                                                         const std::set<std::string>& ignore) {
  ASSIGN_OR_RETURN(KeyReader file, KeyReader::Parse(json));
  HuggingFaceConfig config;
  ModelConfig& model = config.model;
  const std::string type = file.Text("model_type");
  config.dtype = file.Text("dtype", file.Text("torch_dtype", ""));
  // Kimi K2's name of its own for the same model: "it reuses the DeepSeekV3CausalLM architecture".
  const bool is_v3 = type == "deepseek_v3" || type == "kimi_k2";
  model.set_model_type(is_v3 ? "deepseek_v3" : type);
  for (const std::string& key : ignore) file.Ignore(key.c_str(), "the user says so");
  config.is_fp8 = ParseQuantization(file);
  if (is_v3 || type == "deepseek_v2") {
    ParseDeepSeek(file, is_v3, model);
  } else if (type == "qwen3_moe") {
    ParseQwen3Moe(file, model);
  } else if (type == "mixtral") {
    ParseMixtral(file, model);
  } else if (type == "olmoe") {
    ParseOlmoe(file, model);
  } else {
    file.Refuse("model_type", "deepseek_v3, kimi_k2, deepseek_v2, qwen3_moe, mixtral or olmoe");
  }
  for (const char* key : kIrrelevant) file.Ignore(key, "it changes no number");
  ASSIGN_OR_RETURN(config.keys, file.Report());
  ResolveModel(model);
  RETURN_IF_ERROR(ValidateModel(model));
  return config;
}

std::vector<checkpoints::MappedTensor> MakeTensorMap(const ModelConfig& config) {
  using checkpoints::MappedTensor;
  std::vector<MappedTensor> map;
  for (NamedTensor& tensor : ListTensors(config)) {
    MappedTensor mapped{.disk = checkpoints::DiskName(config.model_type(), tensor.name),
                        .name = tensor.name,
                        .shape = std::move(tensor.shape),
                        .may_be_fp8 = tensor.kind == TensorKind::kMatrix};
    switch (tensor.kind) {
      case TensorKind::kMatrix:
      case TensorKind::kOther:
        break;
      case TensorKind::kGateBias:
        mapped.role = MappedTensor::Role::kGateBias;
        break;
      case TensorKind::kEmbedCopy:
        mapped.role = MappedTensor::Role::kCopy;
        mapped.name = "model.embed_tokens.weight";
        break;
      case TensorKind::kHeadCopy:
        mapped.role = MappedTensor::Role::kCopy;
        mapped.name = config.tie_word_embeddings() ? "model.embed_tokens.weight" : "lm_head.weight";
        break;
    }
    map.push_back(std::move(mapped));
  }
  return map;
}

}  // namespace sluice::trainer
