// The way back: a config.json from a ModelConfig.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
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
  json["n_shared_experts"] = m.n_shared_experts() == 0 ? Json(nullptr) : Json(m.n_shared_experts());
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
  if (field == "router_z_loss_coef" || field == "mtp_hidden_before_norm" ||
      field == "initializer_range") {
    return true;
  }
  if (field == "aux_loss_alpha") return m.kv_lora_rank() == 0;
  if (field == "router_aux_loss_coef") return m.kv_lora_rank() > 0;
  if (field == "head_dim" || field == "num_key_value_heads") return m.kv_lora_rank() > 0;
  if (field == "rope_interleave") return m.kv_lora_rank() == 0;
  if (field == "group_mask") return m.n_group() == 1;
  return field == "intermediate_size" && m.first_k_dense_replace() == 0;
}

// Whatever the family cannot say comes back as something else.
absl::Status CompareWithWayBack(const ModelConfig& wanted, const ModelConfig& back) {
  const auto* descriptor = ModelConfig::descriptor();
  const auto* reflection = wanted.GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    std::string a, b;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      a = reflection->GetMessage(wanted, field).ShortDebugString();
      b = reflection->GetMessage(back, field).ShortDebugString();
    } else {
      google::protobuf::TextFormat::PrintFieldValueToString(wanted, field, -1, &a);
      google::protobuf::TextFormat::PrintFieldValueToString(back, field, -1, &b);
    }
    if (a == b || MayDiffer(field->name(), wanted)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("model.", field->name(), ": found ", a, ", wanted ", b,
                     ", as every model of the family ", wanted.model_type(), " has on disk"));
  }
  return absl::OkStatus();
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
  json["torch_dtype"] = options.dtype;
  if (options.is_fp8) {
    json["quantization_config"] = {{"activation_scheme", "dynamic"},
                                   {"fmt", "e4m3"},
                                   {"quant_method", "fp8"},
                                   {"weight_block_size", {128, 128}}};
  }
  const std::string text = json.dump(2) + "\n";
  ASSIGN_OR_RETURN(const HuggingFaceConfig back, ParseHuggingFaceConfig(text));
  RETURN_IF_ERROR(CompareWithWayBack(m, back.model));
  return text;
}

}  // namespace sluice::trainer
