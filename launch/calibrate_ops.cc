#include "launch/calibrate_ops.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "kernels/core/status_macros.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/rms_norm.h"
#include "trainer/model/lm_head.h"

namespace sluice::launch {
namespace {

using kernels::DType;
using kernels::MemoryTag;
using kernels::PackedMatrix;
using kernels::Shape;
using kernels::TensorView;

constexpr int64_t kMostExperts = 16, kMostColumns = 32768, kMostTokens = 4096;
constexpr int kSamples = 7;
constexpr double kSecondsPerSample = 0.003;
constexpr int64_t kParameters = 4 << 20;  // of an optimizer's or a packing's measurement
constexpr int64_t kMostCopies = 256;
constexpr size_t kBlockBytes = size_t{64} << 20;

// Twice what the last cache holds, 32 MiB where the system does not say.
double ColdBytes() {
  const int64_t cache = std::max<int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), int64_t{32} << 20);
  return 2.0 * static_cast<double>(cache);
}

OpShapes Cut(OpShapes shapes) {
  shapes.tokens = std::clamp<int64_t>(shapes.tokens, 1, kMostTokens);
  shapes.sequence_length = std::clamp<int64_t>(shapes.sequence_length, 1, shapes.tokens);
  shapes.tokens = shapes.tokens / shapes.sequence_length * shapes.sequence_length;
  trainer::ModelConfig& m = shapes.model;
  m.set_n_routed_experts(std::min<int64_t>(m.n_routed_experts(), kMostExperts));
  m.set_num_experts_per_tok(std::min(m.num_experts_per_tok(), m.n_routed_experts()));
  m.set_vocab_size(std::min<int64_t>(m.vocab_size(), kMostColumns));
  return shapes;
}

struct Heads {
  int64_t count = 0, kv_count = 0, qk = 0, rotated = 0, v = 0;
};
Heads HeadsOf(const trainer::ModelConfig& m) {
  if (m.kv_lora_rank() > 0) {
    return {m.num_attention_heads(), m.num_attention_heads(),
            m.qk_nope_head_dim() + m.qk_rope_head_dim(), m.qk_rope_head_dim(), m.v_head_dim()};
  }
  return {m.num_attention_heads(), m.num_key_value_heads(), m.head_dim(), m.head_dim(),
          m.head_dim()};
}

}  // namespace

double WallSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double ProductTimes::Rate(double memory_rate) const {
  const double left = forward_seconds - forward_bytes / memory_rate;
  return flops / (left > 0 ? left : forward_seconds);
}

double ProductTimes::WeightFactor(double rate, double memory_rate) const {
  return weight_seconds / (flops / rate + weight_bytes / memory_rate);
}

OpTimer::OpTimer(const OpShapes& shapes, kernels::DeviceContext& device)
    : shapes_(Cut(shapes)),
      device_(device),
      stream_(device.stream(kernels::StreamRole::kCompute)) {}

int64_t OpTimer::CopiesOf(double bytes) {
  return std::clamp<int64_t>(static_cast<int64_t>(ColdBytes() / bytes) + 1, 1, kMostCopies);
}

// Blocks are kept from one measurement to the next: pages that are new cost more than what is
// timed.
absl::StatusOr<TensorView> OpTimer::Take(DType dtype, Shape shape) {
  const size_t bytes = static_cast<size_t>(shape.num_elements()) * SizeOf(dtype);
  while (block_ < buffers_.size() && used_ + bytes > buffers_[block_].size()) {
    ++block_;
    used_ = 0;
  }
  if (block_ == buffers_.size()) {
    ASSIGN_OR_RETURN(kernels::Buffer buffer,
                     device_.Allocate(std::max(bytes, kBlockBytes), MemoryTag::kScratch));
    buffers_.push_back(std::move(buffer));
  }
  const TensorView view = buffers_[block_].View(dtype, shape, used_);
  used_ += (bytes + 63) / 64 * 64;
  taken_ += bytes;
  std::memset(view.raw_mutable_data(), 0, bytes);
  return view;
}

void OpTimer::GiveBack() {
  block_ = 0;
  used_ = taken_ = 0;
}

double OpTimer::Time(const std::function<void()>& run) {
  const auto once = [&](int repeats) {
    const double start = WallSeconds();
    for (int i = 0; i < repeats; ++i) run();
    (void)stream_.Synchronize();  // nothing here fails asynchronously
    return (WallSeconds() - start) / repeats;
  };
  once(1);
  const int repeats =
      static_cast<int>(std::clamp(kSecondsPerSample / std::max(1e-7, once(1)), 1.0, 1e5));
  std::vector<double> samples;
  for (int i = 0; i < kSamples; ++i) samples.push_back(once(repeats));
  std::sort(samples.begin(), samples.end());
  return samples[kSamples / 4];
}

std::vector<OpTimer::Product> OpTimer::ListProducts() const {
  const trainer::ModelConfig& m = shapes_.model;
  const Heads h = HeadsOf(m);
  const int64_t tokens = shapes_.tokens, hidden = m.hidden_size();
  const double layers = m.num_hidden_layers();
  const double dense_layers = m.n_routed_experts() > 0 ? m.first_k_dense_replace() : layers;
  std::vector<Product> list;
  if (m.kv_lora_rank() > 0) {
    const int64_t kva = m.kv_lora_rank(), qa = m.q_lora_rank(), q = h.count * h.qk;
    list.push_back({layers, tokens, hidden, (qa > 0 ? qa : q) + kva + m.qk_rope_head_dim()});
    if (qa > 0) list.push_back({layers, tokens, qa, q});
    list.push_back({layers, tokens, kva, h.count * (m.qk_nope_head_dim() + h.v)});
  } else {
    list.push_back({layers, tokens, hidden, (h.count + 2 * h.kv_count) * h.qk});
  }
  list.push_back({layers, tokens, h.count * h.v, hidden});
  const auto mlp = [&](double times, int64_t rows, int64_t width, int64_t experts) {
    if (times <= 0 || width <= 0) return;
    list.push_back({times, rows, hidden, 2 * width, experts});
    list.push_back({times, rows, width, hidden, experts});
  };
  const int64_t width = m.moe_intermediate_size();
  mlp(dense_layers, tokens, m.intermediate_size(), 0);
  mlp(layers - dense_layers, tokens, width * m.n_shared_experts(), 0);
  mlp(layers - dense_layers, tokens * m.num_experts_per_tok(), width, m.n_routed_experts());
  const int64_t chunk = std::min(tokens, trainer::LmHead::kChunkRows);
  list.push_back(
      {static_cast<double>(tokens) / static_cast<double>(chunk), chunk, hidden, m.vocab_size()});
  return list;
}

absl::StatusOr<OpTimer::Operands> OpTimer::TakeOperands(const Product& p, DType dtype) {
  const int64_t experts = std::max<int64_t>(1, p.experts);
  Operands o;
  ASSIGN_OR_RETURN(o.x, Take(dtype, {p.rows, p.k}));
  ASSIGN_OR_RETURN(o.y, Take(dtype, {p.rows, p.n}));
  ASSIGN_OR_RETURN(o.dw, Take(DType::kF32, {experts, p.n, p.k}));
  o.forward = {experts, p.k, p.n, dtype, {}};
  o.backward = {experts, p.n, p.k, dtype, {}};
  for (PackedMatrix* packed : {&o.forward, &o.backward}) {
    const size_t bytes = kernels::PackedBytes(experts, packed->k, packed->n, dtype);
    ASSIGN_OR_RETURN(packed->storage, Take(DType::kU8, {static_cast<int64_t>(bytes)}));
  }
  return o;
}

// One set of operands after the other, more than caches hold: in a step a product's weights come
// from memory, and most of its rows.
absl::Status OpTimer::AddProduct(const Product& p, DType dtype, ProductTimes& times) {
  GiveBack();
  const double width = static_cast<double>(SizeOf(dtype));
  const int64_t experts = std::max<int64_t>(1, p.experts);
  const double rows = static_cast<double>(p.rows * (p.k + p.n)) * width;
  const double weights = static_cast<double>(experts * p.n * p.k);
  std::vector<Operands> sets(CopiesOf(rows + weights * width));
  for (Operands& set : sets) {
    ASSIGN_OR_RETURN(set, TakeOperands(p, dtype));
  }
  ASSIGN_OR_RETURN(const TensorView offsets, Take(DType::kI32, {experts + 1}));
  for (int64_t e = 0; e <= experts; ++e)
    offsets.mutable_data<int32_t>()[e] = static_cast<int32_t>(p.rows * e / experts);
  size_t turn = 0;
  const auto next = [&]() -> const Operands& { return sets[turn++ % sets.size()]; };
  const auto multiply = [&](const TensorView& a, const PackedMatrix& b, const TensorView& c) {
    if (p.experts > 0) {
      kernels::GroupedMatmul(stream_, {.x = a, .w = b, .offsets = offsets, .y = c});
    } else {
      kernels::PackedMatmul(stream_, {.a = a, .b = b, .c = c});
    }
  };
  const double forward = Time([&] {
    const Operands& o = next();
    multiply(o.x, o.forward, o.y);
  });
  const double input = Time([&] {
    const Operands& o = next();
    multiply(o.y, o.backward, o.x);
  });
  const double weight = Time([&] {
    const Operands& o = next();
    if (p.experts > 0) {
      kernels::GroupedWeightGradient(stream_,
                                     {.dy = o.y, .x = o.x, .offsets = offsets, .dw = o.dw});
    } else {
      kernels::Matmul(stream_, {.a = o.y,
                                .b = o.x,
                                .c = o.dw.Reshape({p.n, p.k}),
                                .transpose_a = true,
                                .accumulate = true});
    }
  });
  times.flops += p.times * 2 * static_cast<double>(p.rows) * static_cast<double>(p.k * p.n);
  times.forward_bytes += p.times * (rows + weights * width);
  times.weight_bytes += p.times * (rows + 8.0 * weights);
  // The model gives both the same rate.
  times.forward_seconds += p.times * (forward + input) / 2;
  times.weight_seconds += p.times * weight;
  return absl::OkStatus();
}

absl::StatusOr<ProductTimes> OpTimer::Products(DType dtype) {
  ProductTimes times;
  for (const Product& product : ListProducts()) RETURN_IF_ERROR(AddProduct(product, dtype, times));
  GiveBack();
  return times;
}

absl::StatusOr<AttentionTimes> OpTimer::Attention() {
  GiveBack();
  const Heads h = HeadsOf(shapes_.model);
  const int64_t tokens = shapes_.tokens, length = shapes_.sequence_length;
  const int64_t sequences = tokens / length;
  const DType dtype = DType::kBF16;
  ASSIGN_OR_RETURN(const TensorView q, Take(dtype, {tokens, h.count, h.qk}));
  ASSIGN_OR_RETURN(const TensorView k, Take(dtype, {tokens, h.kv_count, h.qk}));
  ASSIGN_OR_RETURN(const TensorView v, Take(dtype, {tokens, h.kv_count, h.v}));
  ASSIGN_OR_RETURN(const TensorView o, Take(dtype, {tokens, h.count, h.v}));
  ASSIGN_OR_RETURN(const TensorView dq, Take(dtype, {tokens, h.count, h.qk}));
  ASSIGN_OR_RETURN(const TensorView dk, Take(dtype, {tokens, h.kv_count, h.qk}));
  ASSIGN_OR_RETURN(const TensorView dv, Take(dtype, {tokens, h.kv_count, h.v}));
  ASSIGN_OR_RETURN(const TensorView lse, Take(DType::kF32, {tokens, h.count}));
  ASSIGN_OR_RETURN(const TensorView starts, Take(DType::kI32, {sequences + 1}));
  for (int64_t s = 0; s <= sequences; ++s)
    starts.mutable_data<int32_t>()[s] = static_cast<int32_t>(s * length);
  TensorView scratch;
  const size_t bytes =
      kernels::AttentionScratchBytes(stream_, tokens, h.count, h.kv_count, h.qk, h.v);
  if (bytes > 0) {
    ASSIGN_OR_RETURN(scratch, Take(DType::kU8, {static_cast<int64_t>(bytes)}));
  }
  AttentionTimes times;
  times.flops = static_cast<double>(tokens * h.count * (h.qk + h.v)) *
                static_cast<double>(length + 1);  // 2 flops, half of the square
  times.forward_seconds = Time([&] {
    kernels::Attention(
        stream_,
        {.q = q, .k = k, .v = v, .starts = starts, .o = o, .log_sum_exp = lse, .scratch = scratch});
  });
  times.backward_seconds = Time([&] {
    kernels::AttentionBackward(stream_, {.dout = o,
                                         .q = q,
                                         .k = k,
                                         .v = v,
                                         .starts = starts,
                                         .o = o,
                                         .log_sum_exp = lse,
                                         .dq = dq,
                                         .dk = dk,
                                         .dv = dv,
                                         .scratch = scratch});
  });
  GiveBack();
  return times;
}

absl::StatusOr<double> OpTimer::CopyRate() {
  constexpr int64_t kFloats = int64_t{8} << 20;  // 32 MiB each way
  GiveBack();
  ASSIGN_OR_RETURN(const TensorView from, Take(DType::kF32, {kFloats}));
  ASSIGN_OR_RETURN(const TensorView to, Take(DType::kF32, {kFloats}));
  const double seconds = Time([&] { device_.Copy(from, to, stream_); });
  GiveBack();
  return 2.0 * sizeof(float) * static_cast<double>(kFloats) / seconds;
}

absl::StatusOr<double> OpTimer::OpSeconds() {
  GiveBack();
  ASSIGN_OR_RETURN(const TensorView x, Take(DType::kF32, {1, 16}));
  ASSIGN_OR_RETURN(const TensorView w, Take(DType::kF32, {16}));
  ASSIGN_OR_RETURN(const TensorView rms, Take(DType::kF32, {1}));
  return Time([&] { kernels::RmsNorm(stream_, {.x = x, .w = w, .y = x, .inverse_rms = rms}); });
}

// With the norm of the gradient before it.
absl::StatusOr<double> OpTimer::AdamRate() {
  GiveBack();
  std::vector<TensorView> views;
  for (int i = 0; i < 4; ++i) {
    ASSIGN_OR_RETURN(const TensorView view, Take(DType::kF32, {kParameters}));
    views.push_back(view);
  }
  ASSIGN_OR_RETURN(const TensorView value, Take(DType::kBF16, {kParameters}));
  ASSIGN_OR_RETURN(const TensorView sum, Take(DType::kF64, {1}));
  ASSIGN_OR_RETURN(const TensorView sums, Take(DType::kF64, {kParameters / 4096}));
  const double seconds = Time([&] {
    kernels::SumSquares(stream_, {.x = views[1], .sum = sum, .scratch = sums});
    kernels::AdamW(
        stream_,
        {.master = views[0], .gradient = views[1], .m = views[2], .v = views[3], .value = value});
  });
  GiveBack();
  return static_cast<double>(kParameters) / seconds;
}

absl::StatusOr<double> OpTimer::PackRate() {
  GiveBack();
  const int64_t hidden = shapes_.model.hidden_size(), n = std::max(hidden, kParameters / hidden);
  ASSIGN_OR_RETURN(const TensorView w, Take(DType::kBF16, {n, hidden}));
  PackedMatrix forward{1, hidden, n, DType::kBF16, {}}, backward{1, n, hidden, DType::kBF16, {}};
  for (PackedMatrix* packed : {&forward, &backward}) {
    const size_t bytes = kernels::PackedBytes(1, packed->k, packed->n, DType::kBF16);
    ASSIGN_OR_RETURN(packed->storage, Take(DType::kU8, {static_cast<int64_t>(bytes)}));
  }
  const double seconds = Time([&] {
    kernels::PackMatrix(stream_, {.b = w, .transpose = true, .packed = forward});
    kernels::PackMatrix(stream_, {.b = w, .transpose = false, .packed = backward});
  });
  GiveBack();
  return static_cast<double>(n * hidden) / seconds;
}

absl::StatusOr<double> OpTimer::ClearRate() {
  GiveBack();
  ASSIGN_OR_RETURN(const TensorView gradients, Take(DType::kF32, {4 * kParameters}));
  const double seconds = Time([&] { kernels::Fill(stream_, gradients, 0); });
  GiveBack();
  return 4.0 * static_cast<double>(kParameters) / seconds;
}

}  // namespace sluice::launch
