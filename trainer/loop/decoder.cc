#include "trainer/loop/decoder.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/dequantized_matmul.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/router.h"
#include "kernels/ops/swiglu.h"
#include "trainer/model/fp8.h"
#include "trainer/model/model_config.h"
#include "trainer/model/rope_table.h"

namespace sluice::trainer {
namespace {

using Row = std::vector<float>;

float Dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// softmax(scale * scores) in place.
void Softmax(std::vector<float>& scores, float scale) {
  float most = -INFINITY, total = 0;
  for (float score : scores) most = std::max(most, score * scale);
  for (float& score : scores) total += score = std::exp(score * scale - most);
  for (float& score : scores) score /= total;
}

// One expert (or the only matrix) of a weight that is kept as codes.
struct KeptMatrix {
  KeptMatrix(const Parameter& weight, int64_t expert) : bounds(RowTiles(weight)) {
    const int rank = weight.shape.rank();
    const int64_t out = weight.shape[rank - 2], in = weight.shape[rank - 1];
    const int64_t all_rows = weight.shape.num_elements() / in;
    view.codes = weight.value.Reshape({all_rows, in}).Rows(expert * out, out).Reshape({1, out, in});
    view.scales = weight.scales->value.Rows(expert, 1);
    view.row_tiles = ConstTensorView(bounds.data(), DType::kI32, {std::ssize(bounds)});
  }
  std::vector<int32_t> bounds;
  kernels::QuantizedWeight view;
};

// Everything is a row of one token in FP32; weights are read as they lie in the store.
class CachedDecoder : public Decoder {
 public:
  CachedDecoder(RankModel& model, int64_t max_positions)
      : model_(model),
        config_(model.config().model()),
        max_positions_(max_positions),
        hidden_(config_.hidden_size()),
        is_mla_(config_.kv_lora_rank() > 0),
        interleaved_(is_mla_ && config_.rope_interleave()),
        latents_(config_.num_hidden_layers()),
        keys_(config_.num_hidden_layers()) {
    const int rotated = is_mla_ ? config_.qk_rope_head_dim() : config_.head_dim();
    const RopeScaling* scaling = config_.has_rope_scaling() ? &config_.rope_scaling() : nullptr;
    frequencies_ = RopeFrequencies(config_.rope_theta(), rotated, scaling);
    rotation_ = YarnRotationFactor(scaling);
    const int head = is_mla_ ? config_.qk_nope_head_dim() + rotated : config_.head_dim();
    scale_ = static_cast<float>((is_mla_ ? YarnSoftmaxFactor(scaling) : 1.0) /
                                std::sqrt(static_cast<double>(head)));
  }

  int64_t position() const override { return position_; }

  absl::StatusOr<std::span<const float>> Step(int32_t token) override {
    if (position_ >= max_positions_) {
      return absl::OutOfRangeError(absl::StrCat("generation: found ", position_ + 1,
                                                " tokens, wanted at most ", max_positions_));
    }
    if (token < 0 || token >= config_.vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token: found ", token, ", wanted 0 to ", config_.vocab_size() - 1));
    }
    Row x = Values("model.embed_tokens.weight", int64_t{token} * hidden_, hidden_);
    for (int layer = 0; layer < config_.num_hidden_layers(); ++layer) {
      const std::string prefix = absl::StrCat("model.layers.", layer, ".");
      const Row h =
          Norm(prefix + "input_layernorm.weight", x, static_cast<float>(config_.rms_norm_eps()));
      Accumulate(
          is_mla_ ? Mla(layer, prefix + "self_attn.", h) : Gqa(layer, prefix + "self_attn.", h), 1,
          x);
      const Row h2 = Norm(prefix + "post_attention_layernorm.weight", x,
                          static_cast<float>(config_.rms_norm_eps()));
      Accumulate(IsMoe(config_, layer) ? Moe(layer, prefix + "mlp.", h2) : Mlp(prefix + "mlp.", h2),
                 1, x);
    }
    const Row normed = Norm("model.norm.weight", x, static_cast<float>(config_.rms_norm_eps()));
    logits_ = Product(
        config_.tie_word_embeddings() ? "model.embed_tokens.weight" : "lm_head.weight", normed);
    ++position_;
    return std::span<const float>(logits_);
  }

 private:
  // Elements of a parameter found by one of its named pieces, as FP32, from the parameter's element
  // `begin`.
  Row Values(const std::string& name, int64_t begin, int64_t count) {
    const Parameter* parameter = model_.store().Find(name);
    CHECK(parameter != nullptr) << name;
    const int64_t total = parameter->shape.num_elements();
    if (parameter->is_quantized()) return KeptValues(*parameter);
    const ConstTensorView flat = parameter->value.Reshape({total}).Rows(begin, count);
    Row row(count);
    kernels::Cast(model_.stream(),
                  {.from = flat, .to = TensorView(row.data(), DType::kF32, {count})});
    return row;
  }

  DType value_dtype() { return model_.store().values(ParameterGroup::kDense).dtype(); }

  // All values of a matrix that is kept as codes.
  Row KeptValues(const Parameter& parameter) {
    const int64_t out = parameter.shape[0], in = parameter.shape[1];
    const KeptMatrix kept(parameter, 0);
    Row row(out * in);
    const TensorView values(row.data(), DType::kF32, {1, out, in});
    kernels::DequantizeWeight(model_.stream(), {.weight = kept.view, .w = values});
    if (value_dtype() == DType::kBF16) {
      for (float& value : row) value = kernels::ToFloat(kernels::ToBFloat16(value));
    }
    return row;
  }

  // W x for rows [first, first + rows) of the (fused) parameter that holds `name`; rows = -1: all.
  Row Product(const std::string& name, const Row& x, int64_t first = 0, int64_t rows = -1) {
    const Parameter* parameter = model_.store().Find(name);
    CHECK(parameter != nullptr) << name;
    const int64_t in = static_cast<int64_t>(x.size()), out = parameter->shape.num_elements() / in;
    if (rows < 0) rows = out;
    const DType dtype = value_dtype();
    std::vector<kernels::BFloat16> rounded(dtype == DType::kBF16 ? in : 0);
    ConstTensorView operand(x.data(), DType::kF32, {1, in});
    if (dtype == DType::kBF16) {
      for (int64_t i = 0; i < in; ++i) rounded[i] = kernels::ToBFloat16(x[i]);
      operand = ConstTensorView(rounded.data(), dtype, {1, in});
    }
    Row y(rows);
    const TensorView result(y.data(), DType::kF32, {1, rows});
    if (parameter->is_quantized()) {  // rows are those of one expert, or all
      const KeptMatrix kept(*parameter, first / rows);
      kernels::DequantizedMatmul(model_.stream(), {.a = operand, .w = kept.view, .c = result});
    } else {
      const TensorView weight = parameter->value.Reshape({out, in}).Rows(first, rows);
      kernels::Matmul(model_.stream(),
                      {.a = operand, .b = weight, .c = result, .transpose_b = true});
    }
    return y;
  }

  Row Norm(const std::string& name, const Row& x, float eps) {
    const Row weight = Values(name, 0, static_cast<int64_t>(x.size()));
    double squares = 0;
    for (float value : x) squares += static_cast<double>(value) * value;
    const float inverse =
        static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(x.size()) + eps));
    Row y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * inverse * weight[i];
    return y;
  }

  static void Accumulate(const Row& from, float weight, Row& to) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += weight * from[i];
  }

  // Rotates `width` elements at the current position: pairs (2i, 2i + 1) for MLA unless
  // the model says otherwise, (i, i + width / 2) else.
  void Rotate(float* x, int64_t width) const {
    for (int64_t i = 0; i < width / 2; ++i) {
      const double angle = static_cast<double>(position_) * frequencies_[i];
      const auto c = static_cast<float>(rotation_ * std::cos(angle)),
                 s = static_cast<float>(rotation_ * std::sin(angle));
      float& a = x[interleaved_ ? 2 * i : i];
      float& b = x[interleaved_ ? 2 * i + 1 : i + width / 2];
      const float first = a * c - b * s, second = a * s + b * c;
      a = first;
      b = second;
    }
  }

  Row Mla(int layer, const std::string& prefix, const Row& h) {
    const int64_t heads = config_.num_attention_heads(), nope = config_.qk_nope_head_dim();
    const int64_t rotary = config_.qk_rope_head_dim(), v = config_.v_head_dim(),
                  rank = config_.kv_lora_rank();
    const int64_t head = nope + rotary;
    const int64_t q_width = config_.q_lora_rank() > 0 ? config_.q_lora_rank() : heads * head;
    const Row down = Product(prefix + "kv_a_proj_with_mqa.weight", h);
    Row q(down.begin(), down.begin() + q_width);
    if (config_.q_lora_rank() > 0)
      q = Product(prefix + "q_b_proj.weight", Norm(prefix + "q_a_layernorm.weight", q, 1e-6f));
    const Row latent = Norm(prefix + "kv_a_layernorm.weight",
                            Row(down.begin() + q_width, down.begin() + q_width + rank), 1e-6f);
    Row key(down.begin() + q_width + rank, down.end());
    Rotate(key.data(), rotary);
    latents_[layer].insert(latents_[layer].end(), latent.begin(), latent.end());
    keys_[layer].insert(keys_[layer].end(), key.begin(), key.end());
    const Row up = Values(prefix + "kv_b_proj.weight", 0,
                          heads * (nope + v) * rank);  // all nope rows, then all v rows
    const int64_t count = position_ + 1;
    Row o(heads * v);
    for (int64_t a = 0; a < heads; ++a) {
      float* query = q.data() + a * head;
      Rotate(query + nope, rotary);
      Row absorbed(rank, 0.0f),
          mixed(rank, 0.0f);  // the query in latent space; the latents by attention weight
      for (int64_t i = 0; i < nope; ++i) {
        for (int64_t r = 0; r < rank; ++r) absorbed[r] += query[i] * up[(a * nope + i) * rank + r];
      }
      std::vector<float> scores(count);
      for (int64_t t = 0; t < count; ++t) {
        scores[t] = Dot(absorbed.data(), latents_[layer].data() + t * rank, rank) +
                    Dot(query + nope, keys_[layer].data() + t * rotary, rotary);
      }
      Softmax(scores, scale_);
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t r = 0; r < rank; ++r) mixed[r] += scores[t] * latents_[layer][t * rank + r];
      }
      for (int64_t i = 0; i < v; ++i)
        o[a * v + i] = Dot(mixed.data(), up.data() + (heads * nope + a * v + i) * rank, rank);
    }
    return Product(prefix + "o_proj.weight", o);
  }

  // One projection of heads, normalised if the model says so, rotated.
  Row HeadsOf(const std::string& prefix, const char* letter, const Row& h) {
    const int64_t head = config_.head_dim();
    Row x = Product(absl::StrCat(prefix, letter, "_proj.weight"), h);
    const auto eps = static_cast<float>(config_.rms_norm_eps());
    if (config_.qk_norm() == "full") x = Norm(absl::StrCat(prefix, letter, "_norm.weight"), x, eps);
    for (size_t begin = 0; begin < x.size(); begin += head) {
      if (config_.qk_norm() == "head") {
        const Row normed = Norm(absl::StrCat(prefix, letter, "_norm.weight"),
                                Row(x.begin() + begin, x.begin() + begin + head), eps);
        std::copy(normed.begin(), normed.end(), x.begin() + begin);
      }
      Rotate(x.data() + begin, head);
    }
    return x;
  }

  Row Gqa(int layer, const std::string& prefix, const Row& h) {
    const int64_t heads = config_.num_attention_heads(), groups = config_.num_key_value_heads();
    const int64_t head = config_.head_dim(), width = groups * head, count = position_ + 1;
    const Row q = HeadsOf(prefix, "q", h), key = HeadsOf(prefix, "k", h),
              value = Product(prefix + "v_proj.weight", h);
    keys_[layer].insert(keys_[layer].end(), key.begin(), key.end());
    latents_[layer].insert(latents_[layer].end(), value.begin(), value.end());
    Row o(heads * head, 0.0f);
    for (int64_t a = 0; a < heads; ++a) {
      const int64_t group = a / (heads / groups) * head;
      std::vector<float> scores(count);
      for (int64_t t = 0; t < count; ++t)
        scores[t] = Dot(q.data() + a * head, keys_[layer].data() + t * width + group, head);
      Softmax(scores, scale_);
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t i = 0; i < head; ++i)
          o[a * head + i] += scores[t] * latents_[layer][t * width + group + i];
      }
    }
    return Product(prefix + "o_proj.weight", o);
  }

  Row Activate(const Row& gate_up) {
    const int64_t width = static_cast<int64_t>(gate_up.size()) / 2;
    Row y(width);
    kernels::Swiglu(model_.stream(),
                    {.gate_up = ConstTensorView(gate_up.data(), DType::kF32, {1, 2 * width}),
                     .y = TensorView(y.data(), DType::kF32, {1, width})});
    return y;
  }
  Row Mlp(const std::string& prefix, const Row& h) {
    return Product(prefix + "down_proj.weight", Activate(Product(prefix + "gate_proj.weight", h)));
  }

  Row Moe(int layer, const std::string& prefix, const Row& h) {
    const int64_t experts = config_.n_routed_experts(), k = config_.num_experts_per_tok();
    const int64_t width = config_.moe_intermediate_size();
    const Row logits = Product(prefix + "gate.weight", h);
    Row scores(experts), weights(k);
    std::vector<int32_t> chosen(k);
    std::vector<int64_t> counts(experts, 0);
    const MoeLayer& gate = GateOf(layer);
    kernels::Route(model_.stream(),
                   {.config = gate.router(),
                    .logits = ConstTensorView(logits.data(), DType::kF32, {1, experts}),
                    .bias = gate.has_bias() ? gate.bias() : TensorView(),
                    .scores = TensorView(scores.data(), DType::kF32, {1, experts}),
                    .expert_of = TensorView(chosen.data(), DType::kI32, {1, k}),
                    .weights = TensorView(weights.data(), DType::kF32, {1, k}),
                    .counts = TensorView(counts.data(), DType::kI64, {experts})});
    Row y =
        config_.n_shared_experts() > 0 ? Mlp(prefix + "shared_experts.", h) : Row(hidden_, 0.0f);
    for (int64_t i = 0; i < k; ++i) {
      const int64_t e = chosen[i];
      // All local experts are one parameter, expert after expert.
      const Row activated =
          Activate(Product(prefix + "experts.0.gate_proj.weight", h, e * 2 * width, 2 * width));
      Accumulate(Product(prefix + "experts.0.down_proj.weight", activated, e * hidden_, hidden_),
                 weights[i], y);
    }
    return y;
  }

  const MoeLayer& GateOf(int layer) const {
    const int index = layer - config_.first_k_dense_replace();
    for (const auto& gate : model_.stages()[0]->gates()) {
      if (gate.index == index) return *gate.layer;
    }
    CHECK(false) << "layer " << layer << " has no gate";
    return *model_.stages()[0]->gates()[0].layer;
  }

  RankModel& model_;
  const ModelConfig& config_;
  const int64_t max_positions_, hidden_;
  const bool is_mla_, interleaved_;
  std::vector<double> frequencies_;
  double rotation_ = 1;
  float scale_ = 1;
  std::vector<std::vector<float>> latents_,
      keys_;  // [layer]: latents or values; rotated keys; appended token by token
  Row logits_;
  int64_t position_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(RankModel& model, int64_t max_positions) {
  if (model.mesh().world_size() != 1)
    return absl::FailedPreconditionError("generation: wanted the whole model on one rank");
  return std::make_unique<CachedDecoder>(model, max_positions);
}

}  // namespace sluice::trainer
