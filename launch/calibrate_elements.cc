// Ops that move elements: how many trainer/model/plan_work.cc counts for them, and their time.
#include <algorithm>

#include "kernels/core/status_macros.h"
#include "kernels/ops/copy_heads.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/router.h"
#include "kernels/ops/swiglu.h"
#include "launch/calibrate_ops.h"
#include "trainer/model/lm_head.h"

namespace sluice::launch {
namespace {

using kernels::DType;
using kernels::TensorView;

// i mod n, so that each of n rows is used alike.
void FillInOrder(const TensorView& view, int64_t n) {
  int32_t* data = view.mutable_data<int32_t>();
  for (int64_t i = 0; i < view.num_elements(); ++i) data[i] = static_cast<int32_t>(i % n);
}

}  // namespace

// Norm before and residual after attention, and the same around the MLP: 5 hidden each.
absl::Status OpTimer::AddNorms(std::vector<Elements>& list) {
  const int64_t tokens = shapes_.tokens, hidden = shapes_.model.hidden_size();
  ASSIGN_OR_RETURN(const TensorView x, Take(DType::kBF16, {tokens, hidden}));
  ASSIGN_OR_RETURN(const TensorView y, Take(DType::kBF16, {tokens, hidden}));
  ASSIGN_OR_RETURN(const TensorView w, Take(DType::kBF16, {hidden}));
  ASSIGN_OR_RETURN(const TensorView rms, Take(DType::kF32, {tokens}));
  const auto run = [this, x, y, w, rms] {
    kernels::RmsNorm(
        stream_, {.x = x, .w = w, .y = y, .inverse_rms = rms, .residual = y, .residual_out = x});
  };
  const double elements = 5.0 * static_cast<double>(tokens * hidden);
  list.push_back({2.0 * shapes_.model.num_hidden_layers(), elements, run});
  return absl::OkStatus();
}

// Queries and keys: rotated and put in place, each read and written.
absl::Status OpTimer::AddRotation(std::vector<Elements>& list) {
  const trainer::ModelConfig& m = shapes_.model;
  const bool mla = m.kv_lora_rank() > 0;
  const int64_t tokens = shapes_.tokens, heads = m.num_attention_heads();
  const int64_t rotated = (mla ? m.qk_rope_head_dim() : m.head_dim()) / 2 * 2;
  const int64_t plain = mla ? m.qk_nope_head_dim() : 0, width = rotated + plain;
  ASSIGN_OR_RETURN(const TensorView q, Take(DType::kBF16, {tokens, heads * width}));
  ASSIGN_OR_RETURN(const TensorView k, Take(DType::kBF16, {tokens, heads * width}));
  ASSIGN_OR_RETURN(const TensorView cosine, Take(DType::kF32, {tokens, rotated / 2}));
  ASSIGN_OR_RETURN(const TensorView positions, Take(DType::kI32, {tokens}));
  FillInOrder(positions, tokens);
  const auto run = [=, this] {
    const TensorView turned = q.Columns(plain, heads * width - plain);
    kernels::Rope(stream_, {.x = turned,
                            .y = turned,
                            .cos = cosine,
                            .sin = cosine,
                            .positions = positions,
                            .num_heads = heads,
                            .head_stride = width,
                            .y_head_stride = width});
    if (plain == 0) return;
    kernels::CopyHeads(stream_, {.x = q.Columns(0, plain),
                                 .y = k.Columns(0, plain),
                                 .num_heads = heads,
                                 .head_stride = width,
                                 .y_head_stride = width});
  };
  list.push_back({2.0 * m.num_hidden_layers(), 2.0 * static_cast<double>(q.num_elements()), run});
  return absl::OkStatus();
}

absl::Status OpTimer::AddExperts(std::vector<Elements>& list) {
  const trainer::ModelConfig& m = shapes_.model;
  const int64_t tokens = shapes_.tokens, hidden = m.hidden_size();
  const double layers = m.num_hidden_layers();
  const double moe = m.n_routed_experts() > 0 ? layers - m.first_k_dense_replace() : 0;
  const auto swiglu = [&](double times, int64_t rows, int64_t width) -> absl::Status {
    if (times <= 0 || width <= 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(const TensorView in, Take(DType::kBF16, {rows, 2 * width}));
    ASSIGN_OR_RETURN(const TensorView out, Take(DType::kBF16, {rows, width}));
    const auto run = [this, in, out] { kernels::Swiglu(stream_, {.gate_up = in, .y = out}); };
    list.push_back({times, 3.0 * static_cast<double>(rows * width), run});
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(swiglu(layers - moe, tokens, m.intermediate_size()));
  if (moe <= 0) return absl::OkStatus();
  const int64_t experts = m.n_routed_experts(), k = m.num_experts_per_tok(), rows = tokens * k;
  RETURN_IF_ERROR(swiglu(moe, tokens, m.n_shared_experts() * m.moe_intermediate_size()));
  RETURN_IF_ERROR(swiglu(moe, rows, m.moe_intermediate_size()));
  ASSIGN_OR_RETURN(const TensorView x, Take(DType::kBF16, {tokens, hidden}));
  ASSIGN_OR_RETURN(const TensorView sent, Take(DType::kBF16, {rows, hidden}));
  ASSIGN_OR_RETURN(const TensorView index, Take(DType::kI32, {rows}));
  ASSIGN_OR_RETURN(const TensorView row_of, Take(DType::kI32, {tokens, k}));
  ASSIGN_OR_RETURN(const TensorView weights, Take(DType::kF32, {tokens, k}));
  FillInOrder(index, tokens);
  FillInOrder(row_of, rows);
  const auto move = [=, this] {
    kernels::GatherRows(stream_, {.x = x, .index = index, .y = sent});
    kernels::CombineRows(stream_, {.rows = sent, .row_of = row_of, .weights = weights, .y = x});
  };
  list.push_back({moe, 3.0 * static_cast<double>(rows * hidden), move});
  ASSIGN_OR_RETURN(const TensorView logits, Take(DType::kF32, {tokens, experts}));
  ASSIGN_OR_RETURN(const TensorView scores, Take(DType::kF32, {tokens, experts}));
  ASSIGN_OR_RETURN(const TensorView counts, Take(DType::kI64, {experts}));
  kernels::RouterConfig config;
  config.num_experts = static_cast<int>(experts);
  config.experts_per_token = static_cast<int>(k);
  ASSIGN_OR_RETURN(const TensorView chosen, Take(DType::kI32, {tokens, k}));
  const auto route = [=, this] {
    kernels::Route(stream_, {.config = config,
                             .logits = logits,
                             .scores = scores,
                             .expert_of = chosen,
                             .weights = weights,
                             .counts = counts});
  };
  list.push_back({moe, 4.0 * static_cast<double>(tokens * experts), route});
  return absl::OkStatus();
}

absl::Status OpTimer::AddHead(std::vector<Elements>& list) {
  const int64_t chunk = std::min(shapes_.tokens, trainer::LmHead::kChunkRows),
                v = shapes_.model.vocab_size();
  ASSIGN_OR_RETURN(const TensorView logits, Take(DType::kF32, {chunk, v}));
  ASSIGN_OR_RETURN(const TensorView rounded, Take(DType::kBF16, {chunk, v}));
  ASSIGN_OR_RETURN(const TensorView targets, Take(DType::kI32, {chunk}));
  ASSIGN_OR_RETURN(const TensorView loss, Take(DType::kF32, {chunk}));
  const auto run = [=, this] {
    kernels::CrossEntropy(stream_,
                          {.logits = logits, .targets = targets, .loss = loss, .dlogits = rounded});
  };
  const double chunks = static_cast<double>(shapes_.tokens) / static_cast<double>(chunk);
  // The model counts 3 V forward and twice that backward; here all is done at once.
  list.push_back({chunks, 9.0 * static_cast<double>(chunk * v), run});
  return absl::OkStatus();
}

// Several sets of arrays, which all together caches do not hold, in turns: what an op reads was
// written by the one before it, so large ops come from memory, small ones from the last cache.
absl::StatusOr<double> OpTimer::ElementRate() {
  GiveBack();
  std::vector<std::vector<Elements>> sets;
  for (int64_t copies = 1; static_cast<int64_t>(sets.size()) < copies;) {
    std::vector<Elements> list;
    RETURN_IF_ERROR(AddNorms(list));
    RETURN_IF_ERROR(AddRotation(list));
    RETURN_IF_ERROR(AddExperts(list));
    RETURN_IF_ERROR(AddHead(list));
    sets.push_back(std::move(list));
    if (sets.size() == 1) copies = CopiesOf(static_cast<double>(taken_));
  }
  double elements = 0, seconds = 0;
  for (size_t op = 0; op < sets[0].size(); ++op) {
    size_t turn = 0;
    const Elements& each = sets[0][op];
    elements += each.times * each.elements;
    seconds += each.times * Time([&] { sets[turn++ % sets.size()][op].run(); });
  }
  GiveBack();
  return 2 * elements / seconds;
}

}  // namespace sluice::launch
