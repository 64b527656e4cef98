#include "trainer/model/plan_work.h"

#include <algorithm>

#include "trainer/model/model_config.h"

namespace sluice::trainer {
namespace {

using parallel::Kept;
using parallel::LayerWork;
using parallel::Work;

// Guesses of how many kernels a framework launches beside the products. Attention: norms, rotations
// and assembly of q, k and v, the core, residual. Gate: scores, groups, choice, counters, losses of
// balance, sorting, weights. Rows of experts: offsets, put in order, padded, weighed, put back. With
// the assumed op_seconds of GPU clusters (10 us) all of them are 0.4 ms of a layer's forward.
constexpr int kAttentionOps = 12, kGateOps = 20, kRowOps = 10;

void AddProduct(Work& work, double in, double out) {
  work.product_flops += 2 * in * out;
  work.in_elements += in;
  work.out_elements += out;
  work.fresh_in += in;
  work.fresh_out += out;
  work.weights += in * out;
  ++work.ops;
}

// A norm of `width` elements: read and written.
void AddNormAgain(double width, Work& work) {
  work.touched += 2 * width;
  ++work.ops;
}

// Gate and up read, their product written; beside FP8 its codes.
Work SwigluAgain(double width) {
  Work work;
  work.touched = 3 * width;
  work.fresh_in = work.fused_in = width;
  work.ops = 1;
  return work;
}

struct Heads {
  double count = 0, qk = 0, v = 0, kv_count = 0;
};

Heads HeadsOf(const ModelConfig& c) {
  if (c.kv_lora_rank() > 0) {
    const double qk = c.qk_nope_head_dim() + c.qk_rope_head_dim();
    return {static_cast<double>(c.num_attention_heads()), qk, static_cast<double>(c.v_head_dim()),
            static_cast<double>(c.num_attention_heads())};
  }
  const double d = c.head_dim();
  return {static_cast<double>(c.num_attention_heads()), d, d,
          static_cast<double>(c.num_key_value_heads())};
}

// Norm before and residual after are counted with what they surround.
void DescribeMla(const ModelConfig& c, const Heads& h, LayerWork& layer) {
  const double hidden = c.hidden_size(), qa = c.q_lora_rank(), kva = c.kv_lora_rank();
  const double q = h.count * h.qk, kv = h.count * (c.qk_nope_head_dim() + h.v);
  Work& w = layer.attention;
  if (qa > 0) {
    AddProduct(w, hidden, qa);
    AddProduct(w, qa, q);
    AddProduct(layer.mla_up, qa, q);
    w.touched += 2 * qa;
  } else {
    AddProduct(w, hidden, q);
  }
  AddProduct(w, hidden, kva + c.qk_rope_head_dim());
  AddProduct(w, kva, kv);
  AddProduct(layer.mla_up, kva, kv);
  AddProduct(w, h.count * h.v, hidden);
  w.fresh_in -= hidden;  // read by two products
  // kv norm; q, k and v assembled with their rotated parts: each read and written.
  w.touched += 2 * kva + 2 * q + 2 * h.count * h.qk + 2 * h.count * h.v;
  layer.mla_up.touched = w.touched - 2 * qa - 2 * kva;
  layer.kept.norms += qa + kva;
  layer.kept.mla_up += q + h.count * h.qk + h.count * h.v;
  layer.kept.rest += qa + kva + c.qk_rope_head_dim() + h.count * h.v;
  layer.dense_parameters += qa + kva;  // the two norms
  if (qa > 0) AddNormAgain(qa, layer.norms);
  AddNormAgain(kva, layer.norms);
}

void DescribeGqa(const ModelConfig& c, const Heads& h, LayerWork& layer) {
  const double hidden = c.hidden_size(), q = h.count * h.qk, k = h.kv_count * h.qk;
  Work& w = layer.attention;
  AddProduct(w, hidden, q + 2 * k);
  AddProduct(w, q, hidden);
  const bool norm = c.qk_norm() != "none";
  w.touched += 2 * (q + k) * (norm ? 2 : 1);
  layer.kept.rest += (norm ? 2 : 1) * (q + k) + k + q;
  if (c.qk_norm() == "head") layer.dense_parameters += 2 * h.qk;
  if (c.qk_norm() == "full") layer.dense_parameters += q + k;
}

void AddMlp(double hidden, double width, Work& work) {
  AddProduct(work, hidden, 2 * width);
  AddProduct(work, width, hidden);
  work.touched += 3 * width;
  work.fused_in += width;
  work.fused_out += 2 * width;
  work.ops += 2;
}

LayerWork DescribeLayer(const ModelConfig& c, int64_t sequence, bool moe) {
  const double hidden = c.hidden_size();
  const Heads h = HeadsOf(c);
  LayerWork layer;
  layer.is_moe = moe;
  c.kv_lora_rank() > 0 ? DescribeMla(c, h, layer) : DescribeGqa(c, h, layer);
  layer.attention.touched += 5 * hidden;  // norm, residual
  for (int i = 0; i < 2; ++i) AddNormAgain(hidden, layer.norms);
  layer.attention.core_flops = 2 * h.count * (h.qk + h.v) * static_cast<double>(sequence + 1) / 2;
  layer.attention.ops += kAttentionOps;
  layer.dense_parameters += layer.attention.weights + 2 * hidden;
  layer.kept.norms += 2 * hidden;
  layer.kept.rest += 2 * hidden;
  layer.dense.touched += 5 * hidden;
  if (!moe) {
    AddMlp(hidden, c.intermediate_size(), layer.dense);
    layer.kept.rest += 2.0 * c.intermediate_size();
    layer.kept.swiglu += c.intermediate_size();
    layer.swiglu = SwigluAgain(c.intermediate_size());
    layer.dense_parameters += 3 * hidden * c.intermediate_size();
    return layer;
  }
  const double width = c.moe_intermediate_size(), shared = c.n_shared_experts() * width;
  AddProduct(layer.dense, hidden, c.n_routed_experts());
  layer.dense.touched += 4.0 * c.n_routed_experts();
  layer.dense.ops += kGateOps;
  layer.dense_parameters += hidden * c.n_routed_experts();
  if (c.topk_method() == "noaux_tc") {
    layer.bias_parameters = c.n_routed_experts();
    layer.dense_parameters += layer.bias_parameters;
  }
  layer.wide_weights = hidden * c.n_routed_experts();
  layer.state_bytes = 20.0 * c.n_routed_experts();  // two counters of 8 bytes and a bias
  if (shared > 0) {
    AddMlp(hidden, shared, layer.dense);
    layer.dense_parameters += 3 * hidden * shared;
    layer.kept.rest += 2 * shared;
    layer.kept.swiglu += shared;
    layer.swiglu = SwigluAgain(shared);
  }
  AddMlp(hidden, width, layer.expert);
  // Rows arrive quantised. They are put in order of experts (one byte read, one written) and back
  // (two and two): six bytes, three elements of two.
  layer.expert.fresh_in = width;
  layer.expert.fresh_out = 2 * width;
  layer.expert.touched += 3 * hidden;
  layer.expert.ops += kRowOps;
  layer.expert_parameters = 3 * hidden * width;
  layer.kept.rest += c.n_routed_experts();
  layer.kept_row.rest = hidden + 2 * width;  // row in, gate and up
  layer.kept_row.returned = hidden;
  layer.kept_row.swiglu = width;
  layer.expert_swiglu = SwigluAgain(width);
  return layer;
}

}  // namespace

parallel::ModelWork DescribeWork(const ModelConfig& c, int64_t sequence_length) {
  parallel::ModelWork work;
  const double hidden = c.hidden_size(), vocab = c.vocab_size();
  work.hidden = c.hidden_size();
  work.sequence_length = sequence_length;
  work.experts = c.n_routed_experts();
  work.experts_per_token = c.num_experts_per_tok();
  work.groups = std::max(1, c.n_group());
  work.group_limit = c.topk_group() < c.n_group() ? c.topk_group() : 0;
  work.tied_embedding = c.tie_word_embeddings();
  const LayerWork dense = DescribeLayer(c, sequence_length, false);
  const LayerWork moe = work.experts > 0 ? DescribeLayer(c, sequence_length, true) : dense;
  for (int i = 0; i < c.num_hidden_layers(); ++i) work.layers.push_back(IsMoe(c, i) ? moe : dense);
  const Heads h = HeadsOf(c);
  work.kv_elements = h.kv_count * (h.qk + h.v);
  const double rotated = c.kv_lora_rank() > 0 ? c.qk_rope_head_dim() : c.head_dim();
  work.table_bytes = static_cast<double>(sequence_length) * rotated * 4;  // cosines and sines
  work.embedding_parameters = vocab * hidden;
  work.head_parameters = work.tied_embedding ? hidden : vocab * hidden + hidden;
  AddProduct(work.head, hidden, vocab);
  work.head.touched = 3 * vocab + 2 * hidden;
  work.mtp_depth = c.num_nextn_predict_layers();
  work.mtp = moe;
  AddProduct(work.mtp.attention, 2 * hidden, hidden);
  work.mtp.attention.touched += 6 * hidden;
  work.mtp.dense_parameters += 2 * hidden * hidden + 3 * hidden;
  work.parameters = work.embedding_parameters + work.head_parameters;
  for (const LayerWork& layer : work.layers)
    work.parameters +=
        layer.dense_parameters + layer.expert_parameters * work.experts * layer.is_moe;
  const FlopsPerToken flops = ForwardFlops(c, sequence_length);
  work.flops_per_token = 3 * (flops.total - flops.mtp);
  work.flops_per_token_full =
      work.flops_per_token + 3 * c.num_hidden_layers() * moe.attention.core_flops;
  return work;
}

}  // namespace sluice::trainer
