#include "trainer/model/model_config.h"

#include <algorithm>
#include <limits>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::trainer {
namespace {

#define SLUICE_DEFAULT(message, field, value) \
  if (!(message).has_##field()) (message).set_##field(value)

absl::Status Wanted(absl::string_view field, int64_t found, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("model.", field, ": found ", found, ", wanted ", wanted));
}

absl::Status OneOf(absl::string_view field, const std::string& found,
                   std::initializer_list<absl::string_view> known) {
  std::string list;
  for (absl::string_view name : known) {
    if (found == name) return absl::OkStatus();
    absl::StrAppend(&list, list.empty() ? "" : ", ", name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("model.", field, ": found \"", found, "\", wanted one of ", list));
}

absl::Status ValidateAttention(const ModelConfig& c) {
  if (c.kv_lora_rank() > 0) {
    if (c.qk_nope_head_dim() < 1)
      return Wanted("qk_nope_head_dim", c.qk_nope_head_dim(), "at least 1");
    if (c.qk_rope_head_dim() < 2 || c.qk_rope_head_dim() % 2 != 0) {
      return Wanted("qk_rope_head_dim", c.qk_rope_head_dim(), "an even number");
    }
    if (c.v_head_dim() < 1) return Wanted("v_head_dim", c.v_head_dim(), "at least 1");
    return absl::OkStatus();
  }
  if (c.head_dim() < 2 || c.head_dim() % 2 != 0)
    return Wanted("head_dim", c.head_dim(), "an even number");
  if (c.num_key_value_heads() < 1 || c.num_attention_heads() % c.num_key_value_heads() != 0) {
    return Wanted("num_key_value_heads", c.num_key_value_heads(),
                  absl::StrCat("a divisor of num_attention_heads = ", c.num_attention_heads()));
  }
  return OneOf("qk_norm", c.qk_norm(), {"none", "head", "full"});
}

absl::Status ValidateGate(const ModelConfig& c) {
  if (c.n_routed_experts() == 0) return absl::OkStatus();
  const int experts = c.n_routed_experts();
  if (c.moe_intermediate_size() < 1)
    return Wanted("moe_intermediate_size", c.moe_intermediate_size(), "at least 1");
  if (c.num_experts_per_tok() < 1 || c.num_experts_per_tok() > experts) {
    return Wanted("num_experts_per_tok", c.num_experts_per_tok(),
                  absl::StrCat("1 to n_routed_experts = ", experts));
  }
  if (c.n_group() < 1 || experts % c.n_group() != 0) {
    return Wanted("n_group", c.n_group(),
                  absl::StrCat("a divisor of n_routed_experts = ", experts));
  }
  if (c.topk_group() < 1 || c.topk_group() > c.n_group()) {
    return Wanted("topk_group", c.topk_group(), absl::StrCat("1 to n_group = ", c.n_group()));
  }
  if (c.topk_group() * (experts / c.n_group()) < c.num_experts_per_tok()) {
    return Wanted("topk_group", c.topk_group(),
                  absl::StrCat("enough groups to hold num_experts_per_tok = ",
                               c.num_experts_per_tok(), " experts"));
  }
  RETURN_IF_ERROR(
      OneOf("topk_method", c.topk_method(), {"greedy", "group_limited_greedy", "noaux_tc"}));
  RETURN_IF_ERROR(OneOf("group_mask", c.group_mask(), {"minus_infinity", "zero"}));
  return OneOf("scoring_func", c.scoring_func(), {"sigmoid", "softmax"});
}

}  // namespace

void ResolveModel(ModelConfig& c) {
  SLUICE_DEFAULT(c, model_type, "deepseek_v3");
  SLUICE_DEFAULT(c, first_k_dense_replace, 0);
  SLUICE_DEFAULT(c, intermediate_size, 0);
  SLUICE_DEFAULT(c, moe_intermediate_size, 0);
  SLUICE_DEFAULT(c, num_key_value_heads, c.num_attention_heads());
  SLUICE_DEFAULT(c, n_routed_experts, 0);
  SLUICE_DEFAULT(c, n_shared_experts, 0);
  SLUICE_DEFAULT(c, num_experts_per_tok, 0);
  SLUICE_DEFAULT(c, n_group, 1);
  SLUICE_DEFAULT(c, topk_group, 1);
  SLUICE_DEFAULT(c, topk_method, "greedy");
  SLUICE_DEFAULT(c, scoring_func, "softmax");
  SLUICE_DEFAULT(c, norm_topk_prob, false);
  SLUICE_DEFAULT(c, routed_scaling_factor, 1.0);
  SLUICE_DEFAULT(c, q_lora_rank, 0);
  SLUICE_DEFAULT(c, kv_lora_rank, 0);
  SLUICE_DEFAULT(c, qk_nope_head_dim, 0);
  SLUICE_DEFAULT(c, qk_rope_head_dim, 0);
  SLUICE_DEFAULT(c, v_head_dim, 0);
  SLUICE_DEFAULT(c, head_dim,
                 c.num_attention_heads() > 0 ? c.hidden_size() / c.num_attention_heads() : 0);
  SLUICE_DEFAULT(c, qk_norm, "none");
  SLUICE_DEFAULT(c, rope_theta, 10000.0);
  SLUICE_DEFAULT(c, max_position_embeddings, 4096);
  SLUICE_DEFAULT(c, rms_norm_eps, 1e-6);
  SLUICE_DEFAULT(c, initializer_range, 0.02);
  SLUICE_DEFAULT(c, tie_word_embeddings, false);
  SLUICE_DEFAULT(c, num_nextn_predict_layers, 0);
  SLUICE_DEFAULT(c, mtp_hidden_before_norm, false);
  SLUICE_DEFAULT(c, aux_loss_alpha, 0.0);
  SLUICE_DEFAULT(c, router_aux_loss_coef, 0.0);
  SLUICE_DEFAULT(c, router_z_loss_coef, 0.0);
  SLUICE_DEFAULT(c, group_mask, "minus_infinity");
  SLUICE_DEFAULT(c, rope_interleave, true);
}

absl::Status ValidateModel(const ModelConfig& c) {
  RETURN_IF_ERROR(OneOf("model_type", c.model_type(),
                        {"deepseek_v3", "deepseek_v2", "qwen3_moe", "mixtral", "olmoe"}));
  if (c.vocab_size() < 2) return Wanted("vocab_size", c.vocab_size(), "at least 2");
  if (c.hidden_size() < 1) return Wanted("hidden_size", c.hidden_size(), "at least 1");
  if (c.num_hidden_layers() < 1)
    return Wanted("num_hidden_layers", c.num_hidden_layers(), "at least 1");
  if (c.num_attention_heads() < 1)
    return Wanted("num_attention_heads", c.num_attention_heads(), "at least 1");
  const bool has_dense = c.n_routed_experts() == 0 || c.first_k_dense_replace() > 0;
  if (has_dense && c.intermediate_size() < 1)
    return Wanted("intermediate_size", c.intermediate_size(), "at least 1");
  if (c.num_nextn_predict_layers() < 0) {
    return Wanted("num_nextn_predict_layers", c.num_nextn_predict_layers(), "0 or more");
  }
  if (c.router_aux_loss_coef() != 0 && c.n_routed_experts() == 0) {
    return absl::InvalidArgumentError(
        "model.router_aux_loss_coef: the model has no experts; wanted 0");
  }
  RETURN_IF_ERROR(ValidateAttention(c));
  return ValidateGate(c);
}

FlopsPerToken ForwardFlops(const ModelConfig& c, int64_t sequence_length) {
  const double hidden = c.hidden_size(), heads = c.num_attention_heads();
  FlopsPerToken flops;
  double qk = c.head_dim(), v = c.head_dim(), projections = 0;
  if (c.kv_lora_rank() > 0) {
    qk = c.qk_nope_head_dim() + c.qk_rope_head_dim();
    v = c.v_head_dim();
    const double q =
        c.q_lora_rank() > 0 ? c.q_lora_rank() * (hidden + heads * qk) : hidden * heads * qk;
    projections = q + hidden * (c.kv_lora_rank() + c.qk_rope_head_dim()) +
                  c.kv_lora_rank() * heads * (c.qk_nope_head_dim() + v) + heads * v * hidden;
  } else {
    projections = hidden * (2 * heads + 2 * c.num_key_value_heads()) * qk;
  }
  flops.attention =
      2 * projections + 2 * heads * (qk + v) * static_cast<double>(sequence_length + 1) / 2;
  flops.dense_mlp = 6 * hidden * c.intermediate_size();
  flops.moe =
      6 * hidden * c.moe_intermediate_size() * (c.num_experts_per_tok() + c.n_shared_experts()) +
      2 * hidden * c.n_routed_experts();
  flops.head = 2 * hidden * c.vocab_size();
  const double last = c.n_routed_experts() > 0 ? flops.moe : flops.dense_mlp;
  flops.mtp =
      c.num_nextn_predict_layers() * (flops.attention + last + 4 * hidden * hidden + flops.head);
  flops.total = flops.head + flops.mtp;
  for (int layer = 0; layer < c.num_hidden_layers(); ++layer) {
    flops.total += flops.attention + (IsMoe(c, layer) ? flops.moe : flops.dense_mlp);
  }
  return flops;
}

double StageFlops(const ModelConfig& config, const StageSpec& stage, const FlopsPerToken& flops) {
  double sum = stage.has_head ? flops.head + flops.mtp : 0;
  for (int i = stage.first_layer; i < stage.first_layer + stage.num_layers; ++i) {
    sum += flops.attention + (IsMoe(config, i) ? flops.moe : flops.dense_mlp);
  }
  return sum;
}

}  // namespace sluice::trainer
