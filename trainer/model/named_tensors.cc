#include "trainer/model/named_tensors.h"

#include <utility>

#include "trainer/model/model_config.h"

namespace sluice::trainer {
namespace {

class Lister {
 public:
  explicit Lister(const ModelConfig& config) : c_(config) {}

  std::vector<NamedTensor> List() {
    Add("model.embed_tokens.weight", {c_.vocab_size(), c_.hidden_size()});
    for (int layer = 0; layer < c_.num_hidden_layers(); ++layer) Layer(layer, IsMoe(c_, layer));
    for (int depth = 0; depth < c_.num_nextn_predict_layers(); ++depth) {
      Mtp(c_.num_hidden_layers() + depth);
    }
    Add("model.norm.weight", {c_.hidden_size()});
    if (!c_.tie_word_embeddings()) Add("lm_head.weight", {c_.vocab_size(), c_.hidden_size()});
    return std::move(tensors_);
  }

 private:
  void Add(const std::string& name, std::vector<int64_t> shape,
           TensorKind kind = TensorKind::kOther) {
    tensors_.push_back({name, std::move(shape), kind});
  }
  void Matrix(const std::string& name, int64_t out, int64_t in) {
    Add(name + ".weight", {out, in}, TensorKind::kMatrix);
  }

  void Feedforward(const std::string& prefix, int64_t width) {
    Matrix(prefix + "gate_proj", width, c_.hidden_size());
    Matrix(prefix + "up_proj", width, c_.hidden_size());
    Matrix(prefix + "down_proj", c_.hidden_size(), width);
  }

  void Mla(const std::string& prefix) {
    const int64_t heads = c_.num_attention_heads(), rank = c_.kv_lora_rank();
    const int64_t query = heads * (c_.qk_nope_head_dim() + c_.qk_rope_head_dim());
    if (c_.q_lora_rank() > 0) {
      Matrix(prefix + "q_a_proj", c_.q_lora_rank(), c_.hidden_size());
      Add(prefix + "q_a_layernorm.weight", {c_.q_lora_rank()});
      Matrix(prefix + "q_b_proj", query, c_.q_lora_rank());
    } else {
      Matrix(prefix + "q_proj", query, c_.hidden_size());
    }
    Matrix(prefix + "kv_a_proj_with_mqa", rank + c_.qk_rope_head_dim(), c_.hidden_size());
    Add(prefix + "kv_a_layernorm.weight", {rank});
    Matrix(prefix + "kv_b_proj", heads * (c_.qk_nope_head_dim() + c_.v_head_dim()), rank);
    Matrix(prefix + "o_proj", c_.hidden_size(), heads * c_.v_head_dim());
  }

  void Gqa(const std::string& prefix) {
    const int64_t head = c_.head_dim();
    for (const auto& [letter, heads] :
         {std::pair<const char*, int64_t>{"q", c_.num_attention_heads()},
          {"k", c_.num_key_value_heads()}}) {
      Matrix(prefix + letter + "_proj", heads * head, c_.hidden_size());
      if (c_.qk_norm() == "none") continue;
      Add(prefix + letter + "_norm.weight", {c_.qk_norm() == "head" ? head : heads * head});
    }
    Matrix(prefix + "v_proj", c_.num_key_value_heads() * head, c_.hidden_size());
    Matrix(prefix + "o_proj", c_.hidden_size(), c_.num_attention_heads() * head);
  }

  void Moe(const std::string& prefix) {
    Add(prefix + "gate.weight", {c_.n_routed_experts(), c_.hidden_size()});
    if (c_.topk_method() == "noaux_tc") {
      Add(prefix + "e_score_correction_bias", {c_.n_routed_experts()}, TensorKind::kGateBias);
    }
    for (int e = 0; e < c_.n_routed_experts(); ++e) {
      Feedforward(prefix + "experts." + std::to_string(e) + ".", c_.moe_intermediate_size());
    }
    if (c_.n_shared_experts() > 0) {
      Feedforward(prefix + "shared_experts.",
                  int64_t{c_.n_shared_experts()} * c_.moe_intermediate_size());
    }
  }

  void Layer(int index, bool is_moe) {
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    Add(prefix + "input_layernorm.weight", {c_.hidden_size()});
    if (c_.kv_lora_rank() > 0) {
      Mla(prefix + "self_attn.");
    } else {
      Gqa(prefix + "self_attn.");
    }
    Add(prefix + "post_attention_layernorm.weight", {c_.hidden_size()});
    if (is_moe) {
      Moe(prefix + "mlp.");
    } else {
      Feedforward(prefix + "mlp.", c_.intermediate_size());
    }
  }

  void Mtp(int index) {
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const int64_t hidden = c_.hidden_size();
    Add(prefix + "embed_tokens.weight", {c_.vocab_size(), hidden}, TensorKind::kEmbedCopy);
    Add(prefix + "enorm.weight", {hidden});
    Add(prefix + "hnorm.weight", {hidden});
    Add(prefix + "eh_proj.weight", {hidden, 2 * hidden});
    Layer(index, c_.n_routed_experts() > 0);
    Add(prefix + "shared_head.norm.weight", {hidden});
    Add(prefix + "shared_head.head.weight", {c_.vocab_size(), hidden}, TensorKind::kHeadCopy);
  }

  const ModelConfig& c_;
  std::vector<NamedTensor> tensors_;
};

}  // namespace

std::vector<NamedTensor> ListTensors(const ModelConfig& config) { return Lister(config).List(); }

}  // namespace sluice::trainer
