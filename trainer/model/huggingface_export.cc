// The way back: a config.json from a ModelConfig.
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoints/huggingface/name_map.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "trainer/model/huggingface_config.h"
#include "trainer/model/model_config.h"

namespace sluice::trainer {
namespace {

using Json = nlohmann::ordered_json;
using google::protobuf::FieldDescriptor;

const char* ArchitectureOf(const std::string& type) {
  if (type == "deepseek_v3") return "DeepseekV3ForCausalLM";
  if (type == "deepseek_v2") return "DeepseekV2ForCausalLM";
  if (type == "qwen3_moe") return "Qwen3MoeForCausalLM";
  return type == "mixtral" ? "MixtralForCausalLM" : "OlmoeForCausalLM";
}

// Programs that read it take every linear layer for FP8 that is not named. DeepSeek's gate is none
// to them; the other families' is, and stays BF16 as in Qwen's own FP8 releases.
Json Quantization(const ModelConfig& m) {
  Json json = {{"activation_scheme", "dynamic"},
               {"fmt", "e4m3"},
               {"quant_method", "fp8"},
               {"weight_block_size", {128, 128}}};
  if (m.kv_lora_rank() > 0) return json;
  Json& plain = json["modules_to_not_convert"] = {"lm_head"};
  for (int layer = 0; layer < m.num_hidden_layers(); ++layer) {
    if (!IsMoe(m, layer)) continue;
    const std::string gate = absl::StrCat("model.layers.", layer, ".mlp.gate.weight");
    plain.push_back(absl::StripSuffix(checkpoints::DiskName(m.model_type(), gate), ".weight"));
  }
  return json;
}

Json IdOrNull(int id) { return id < 0 ? Json(nullptr) : Json(id); }

void AddRope(const ModelConfig& m, Json& json) {
  json["rope_theta"] = m.rope_theta();
  if (!m.has_rope_scaling()) {
    json["rope_scaling"] = nullptr;
    return;
  }
  const RopeScaling& yarn = m.rope_scaling();
  Json& scaling = json["rope_scaling"];
  scaling = {{"type", "yarn"},
             {"rope_type", "yarn"},
             {"factor", yarn.factor()},
             {"beta_fast", yarn.beta_fast()},
             {"beta_slow", yarn.beta_slow()},
             {"original_max_position_embeddings", yarn.original_max_position_embeddings()}};
  if (yarn.mscale_all_dim() == 0) return;  // as when both are missing
  scaling["mscale"] = yarn.mscale();
  scaling["mscale_all_dim"] = yarn.mscale_all_dim();
}

void AddDeepSeek(const ModelConfig& m, Json& json) {
  json["intermediate_size"] = m.intermediate_size();
  json["moe_intermediate_size"] = m.moe_intermediate_size();
  json["n_routed_experts"] = m.n_routed_experts();
  json["n_shared_experts"] = m.n_shared_experts();  // transformers 5 refuses null
  json["first_k_dense_replace"] = m.first_k_dense_replace();
  json["moe_layer_freq"] = 1;
  json["n_group"] = m.n_group();
  json["topk_group"] = m.topk_group();
  json["topk_method"] = m.topk_method();
  json["scoring_func"] = m.scoring_func();
  json["norm_topk_prob"] = m.norm_topk_prob();
  json["routed_scaling_factor"] = m.routed_scaling_factor();
  json["q_lora_rank"] = m.q_lora_rank() == 0 ? Json(nullptr) : Json(m.q_lora_rank());
  json["kv_lora_rank"] = m.kv_lora_rank();
  json["qk_nope_head_dim"] = m.qk_nope_head_dim();
  json["qk_rope_head_dim"] = m.qk_rope_head_dim();
  json["v_head_dim"] = m.v_head_dim();
  if (!m.rope_interleave()) json["rope_interleave"] = false;
  json["num_nextn_predict_layers"] = m.num_nextn_predict_layers();
  json["aux_loss_alpha"] = m.aux_loss_alpha();
  json["seq_aux"] = true;
}

void AddOthers(const ModelConfig& m, Json& json) {
  const std::string& type = m.model_type();
  if (type == "qwen3_moe") {
    json["intermediate_size"] =
        m.intermediate_size() > 0 ? m.intermediate_size() : m.moe_intermediate_size();
    json["moe_intermediate_size"] = m.moe_intermediate_size();
    json["num_experts"] = m.n_routed_experts();
    json["decoder_sparse_step"] = 1;
    Json dense = Json::array();
    for (int layer = 0; layer < m.first_k_dense_replace(); ++layer) dense.push_back(layer);
    json["mlp_only_layers"] = dense;
    json["use_sliding_window"] = false;
  } else {
    json["intermediate_size"] = m.moe_intermediate_size();
    json[type == "mixtral" ? "num_local_experts" : "num_experts"] = m.n_routed_experts();
  }
  if (type != "mixtral") json["norm_topk_prob"] = m.norm_topk_prob();
  if (type != "olmoe") json["head_dim"] = m.head_dim();
  json["router_aux_loss_coef"] = m.router_aux_loss_coef();
}

// Fields that change nothing outside of training, or mean the same when they differ.
bool MayDiffer(const std::string& field, const ModelConfig& m) {
  for (const char* free : {"router_z_loss_coef", "mtp_hidden_before_norm", "initializer_range",
                           "aux_loss_alpha", "router_aux_loss_coef", "group_mask"}) {
    if (field == free) return true;  // the last is a choice of the program that reads the file
  }
  if (field == "head_dim" || field == "num_key_value_heads") return m.kv_lora_rank() > 0;
  if (field == "rope_interleave") return m.kv_lora_rank() == 0;
  return field == "intermediate_size" && m.first_k_dense_replace() == 0;
}

std::string Shown(const ModelConfig& config, const FieldDescriptor* field) {
  std::string text;
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    return config.GetReflection()->GetMessage(config, field).ShortDebugString();
  }
  google::protobuf::TextFormat::PrintFieldValueToString(config, field, -1, &text);
  return text;
}

// The first field that makes a difference; null if none does.
const FieldDescriptor* FirstDifference(const ModelConfig& a, const ModelConfig& b) {
  const auto* descriptor = ModelConfig::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (Shown(a, field) != Shown(b, field) && !MayDiffer(field->name(), a)) return field;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::string> MakeHuggingFaceConfig(const ModelConfig& m,
                                                  const HuggingFaceExport& options) {
  Json json;
  json["architectures"] = {ArchitectureOf(m.model_type())};
  json["model_type"] = m.model_type();
  json["vocab_size"] = m.vocab_size();
  json["hidden_size"] = m.hidden_size();
  json["num_hidden_layers"] = m.num_hidden_layers();
  json["num_attention_heads"] = m.num_attention_heads();
  // MLA has no groups; transformers would repeat keys if the two numbers differed.
  json["num_key_value_heads"] =
      m.kv_lora_rank() > 0 ? m.num_attention_heads() : m.num_key_value_heads();
  json["num_experts_per_tok"] = m.num_experts_per_tok();
  if (m.kv_lora_rank() > 0) {
    AddDeepSeek(m, json);
  } else {
    AddOthers(m, json);
  }
  AddRope(m, json);
  json["max_position_embeddings"] = m.max_position_embeddings();
  json["rms_norm_eps"] = m.rms_norm_eps();
  json["initializer_range"] = m.initializer_range();
  json["hidden_act"] = "silu";
  if (m.model_type() != "mixtral") json["attention_bias"] = false;
  json["attention_dropout"] = 0.0;
  json["tie_word_embeddings"] = m.tie_word_embeddings();
  json["use_cache"] = true;
  // Where they are missing, a family's own ids are taken.
  json["bos_token_id"] = IdOrNull(options.bos_id);
  json["eos_token_id"] = IdOrNull(options.eos_id);
  json["torch_dtype"] = options.dtype;
  if (options.is_fp8) json["quantization_config"] = Quantization(m);
  const std::string text = json.dump(2) + "\n";
  ASSIGN_OR_RETURN(const HuggingFaceConfig back, ParseHuggingFaceConfig(text));
  // Whatever the family cannot say comes back as something else.
  const FieldDescriptor* differs = FirstDifference(m, back.model);
  if (differs == nullptr) return text;
  return absl::InvalidArgumentError(
      absl::StrCat("model.", differs->name(), ": found ", Shown(m, differs), ", wanted ",
                   Shown(back.model, differs), ", as every model of the family ", m.model_type(),
                   " has on disk"));
}

bool SameModel(const ModelConfig& a, const ModelConfig& b) {
  return FirstDifference(a, b) == nullptr;
}

absl::StatusOr<std::string> EditHuggingFaceConfig(absl::string_view text, const ModelConfig& config,
                                                  const HuggingFaceExport& options,
                                                  bool keep_dtype) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError("config.json: found no JSON object");
  }
  const Json before = json;
  const bool is_fp8 =
      json.contains("quantization_config") && !json["quantization_config"].is_null();
  if (is_fp8 && !options.is_fp8) json.erase("quantization_config");
  if (!is_fp8 && options.is_fp8) json["quantization_config"] = Quantization(config);
  if (is_fp8 && options.is_fp8 && !keep_dtype) {
    // The source may have left other modules as they were.
    constexpr const char* kList = "modules_to_not_convert";
    const Json fresh = Quantization(config);
    if (fresh.contains(kList)) {
      json["quantization_config"][kList] = fresh[kList];
    } else {
      json["quantization_config"].erase(kList);
    }
  }
  if (json.contains("num_nextn_predict_layers")) {
    json["num_nextn_predict_layers"] = config.num_nextn_predict_layers();
  }
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (json.contains(key) && !keep_dtype) json[key] = options.dtype;
  }
  return json == before ? std::string(text) : json.dump(2) + "\n";
}

}  // namespace sluice::trainer
