// Speed of everything but the matrix products: loops over elements and rows against what memory can
// stream, attention against the arithmetic peak.
//   elementwise_bench [loops] [optimizer] [attention] [--json FILE]
// Default: loops and attention. optimizer: of the loops only those of the optimizer.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/core/device.h"
#include "kernels/core/philox.h"
#include "kernels/cpu/peak_loop.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/router.h"
#include "kernels/ops/swiglu.h"
#include "tests/bench/report.h"
#include "tests/bench/timing.h"

namespace sluice::bench {
namespace {

using namespace kernels;  // NOLINT

constexpr int64_t kPeakIterations = 20000;

class Bench {
 public:
  explicit Bench(int threads) : threads_(threads) {
    auto created = DeviceContext::Create({.num_threads = threads});
    CHECK(created.ok()) << created.status().ToString();
    device_ = *std::move(created);
  }
  int threads() const { return threads_; }
  Stream& stream() { return device_->stream(StreamRole::kCompute); }
  TensorView Zeros(Shape shape, DType dtype = DType::kF32) {
    const size_t bytes = static_cast<size_t>(shape.num_elements()) * SizeOf(dtype);
    auto buffer = device_->Allocate(std::max<size_t>(64, bytes), MemoryTag::kScratch);
    CHECK(buffer.ok()) << buffer.status().ToString();
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().View(dtype, shape);
  }
  TensorView Random(Shape shape, DType dtype = DType::kF32) {
    const TensorView view = Zeros(shape, dtype);
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      const float x = UniformFromBits(static_cast<uint32_t>(i) * 2654435761u) - 0.5f;
      if (dtype == DType::kBF16) {
        view.mutable_data<BFloat16>()[i] = ToBFloat16(x);
      } else {
        view.mutable_data<float>()[i] = x;
      }
    }
    return view;
  }
  // Token t of `n` lies at position t % period.
  TensorView Positions(int64_t n, int64_t period) {
    const TensorView view = Zeros({n}, DType::kI32);
    for (int64_t i = 0; i < n; ++i) {
      view.mutable_data<int32_t>()[i] = static_cast<int32_t>(i % period);
    }
    return view;
  }
  std::function<void()> OnEachThread(std::function<void(int64_t)> body) {
    return [this, body] {
      CpuStream::From(stream()).Run(
          [&](ThreadPool& pool) { pool.ParallelFor(threads_, [&](int64_t i) { body(i); }); });
    };
  }

 private:
  int threads_;
  std::unique_ptr<DeviceContext> device_;
  std::vector<Buffer> buffers_;
};

// a = b + s c past the caches (12 bytes an element).
void StreamTriad(const float* b, const float* c, float* a, int64_t n) {
#if defined(__x86_64__)
  const __m128 s = _mm_set1_ps(3.0f);
  for (int64_t i = 0; i < n; i += 4) {
    _mm_stream_ps(a + i, _mm_add_ps(_mm_load_ps(b + i), _mm_mul_ps(s, _mm_load_ps(c + i))));
  }
#else
  for (int64_t i = 0; i < n; ++i) a[i] = b[i] + 3.0f * c[i];
#endif
}

// a = b past the caches (8 bytes an element).
void StreamCopy(const float* b, float* a, int64_t n) {
#if defined(__x86_64__)
  for (int64_t i = 0; i < n; i += 4) _mm_stream_ps(a + i, _mm_load_ps(b + i));
#else
  for (int64_t i = 0; i < n; ++i) a[i] = b[i];
#endif
}

struct Loop {
  std::string name;
  int64_t elements;
  double bytes_per_element;
  std::function<void()> run;
};

// What memory streams at most is what the fastest of these reaches.
constexpr int64_t kStreamed = int64_t{16} << 20;
constexpr size_t kNumStreams = 3;

void AddStreams(Bench& bench, std::vector<Loop>& loops) {
  const TensorView a = bench.Zeros({kStreamed}), b = bench.Random({kStreamed}),
                   c = bench.Random({kStreamed});
  const int64_t n = kStreamed / bench.threads();
  const float *from = b.data<float>(), *other = c.data<float>();
  float* to = a.mutable_data<float>();
  loops.push_back({"triad, past the caches 16Mi", kStreamed, 12, bench.OnEachThread([=](int64_t i) {
                     StreamTriad(from + i * n, other + i * n, to + i * n, n);
                   })});
  loops.push_back({"copy, past the caches 16Mi", kStreamed, 8, bench.OnEachThread([=](int64_t i) {
                     StreamCopy(from + i * n, to + i * n, n);
                   })});
  loops.push_back({"memcpy 16Mi", kStreamed, 8, bench.OnEachThread([=](int64_t i) {
                     std::memcpy(to + i * n, from + i * n, static_cast<size_t>(n) * sizeof(float));
                   })});
}

void AddOptimizerLoops(Bench& bench, std::vector<Loop>& loops) {
  constexpr int64_t kParameters = int64_t{16} << 20;
  const TensorView master = bench.Random({kParameters}), gradient = bench.Random({kParameters});
  const TensorView m = bench.Random({kParameters}), v = bench.Zeros({kParameters});
  const TensorView m16 = bench.Zeros({kParameters}, DType::kBF16);
  const TensorView v16 = bench.Zeros({kParameters}, DType::kBF16);
  const TensorView value = bench.Zeros({kParameters}, DType::kBF16);
  const TensorView scratch = bench.Zeros({kParameters / 4096}, DType::kF64);
  const TensorView sum = bench.Zeros({1}, DType::kF64);
  Stream& stream = bench.stream();
  const AdamWArgs args = {.master = master,
                          .gradient = gradient,
                          .m = m,
                          .v = v,
                          .learning_rate = 1e-4f,
                          .weight_decay = 0.1f};
  loops.push_back({"AdamW 16Mi f32", kParameters, 28, [=, &stream] { AdamW(stream, args); }});
  AdamWArgs with_value = args;
  with_value.value = value;
  loops.push_back({"AdamW 16Mi f32 + bf16 value", kParameters, 30,
                   [=, &stream] { AdamW(stream, with_value); }});
  with_value.m = m16, with_value.v = v16;
  loops.push_back({"AdamW 16Mi bf16 moments + value", kParameters, 22,
                   [=, &stream] { AdamW(stream, with_value); }});
  loops.push_back({"SumSquares 16Mi", kParameters, 4, [=, &stream] {
                     SumSquares(stream, {.x = gradient, .sum = sum, .scratch = scratch});
                   }});
  loops.push_back({"Cast f32 to bf16 16Mi", kParameters, 6,
                   [=, &stream] { Cast(stream, {.from = master, .to = value}); }});
  const TensorView small = master.Rows(0, 65536), small_value = value.Rows(0, 65536);
  loops.push_back({"Cast f32 to bf16 64Ki (L2)", 65536, 6,
                   [=, &stream] { Cast(stream, {.from = small, .to = small_value}); }});
  loops.push_back({"Fill 16Mi f32", kParameters, 4, [=, &stream] { Fill(stream, gradient, 0.0); }});
}

void AddRowLoops(Bench& bench, DType dtype, std::vector<Loop>& loops) {
  Stream& stream = bench.stream();
  const std::string suffix = dtype == DType::kBF16 ? " bf16" : " f32";
  const double size = static_cast<double>(SizeOf(dtype));
  const TensorView gate_up = bench.Random({2048, 2048}, dtype);
  const TensorView y = bench.Random({2048, 1024}, dtype);
  const TensorView dgate_up = bench.Zeros({2048, 2048}, dtype);
  loops.push_back({"SwiGLU 2048x1024" + suffix, 2048 * 1024, 3 * size,
                   [=, &stream] { Swiglu(stream, {.gate_up = gate_up, .y = y}); }});
  loops.push_back({"SwiGLU backward" + suffix, 2048 * 1024, 5 * size, [=, &stream] {
                     SwigluBackward(stream, {.dy = y, .gate_up = gate_up, .dgate_up = dgate_up});
                   }});
  const TensorView x = bench.Random({2048, 256}, dtype), dy = bench.Random({2048, 256}, dtype);
  const TensorView out = bench.Zeros({2048, 256}, dtype), w = bench.Random({256}, dtype);
  const TensorView inverse_rms = bench.Random({2048}), dw = bench.Zeros({256});
  loops.push_back({"RMSNorm 2048x256" + suffix, 2048 * 256, 2 * size, [=, &stream] {
                     RmsNorm(stream, {.x = x, .w = w, .y = out, .inverse_rms = inverse_rms});
                   }});
  loops.push_back({"RMSNorm backward input" + suffix, 2048 * 256, 3 * size, [=, &stream] {
                     RmsNormBackwardInput(
                         stream, {.dy = dy, .x = x, .w = w, .inverse_rms = inverse_rms, .dx = out});
                   }});
  loops.push_back({"RMSNorm backward weight" + suffix, 2048 * 256, 2 * size, [=, &stream] {
                     RmsNormBackwardWeight(
                         stream, {.dy = dy, .x = x, .inverse_rms = inverse_rms, .dw = dw});
                   }});
  const TensorView heads = bench.Random({2048, 8 * 48}, dtype);
  const TensorView angles = bench.Random({256, 8});
  const TensorView positions = bench.Positions(2048, 256);
  const TensorView rotated = heads.Columns(32, 8 * 48 - 32);
  loops.push_back({"RoPE 2048x8x16" + suffix, 2048 * 8 * 16, 2 * size, [=, &stream] {
                     Rope(stream, {.x = rotated,
                                   .y = rotated,
                                   .cos = angles,
                                   .sin = angles,
                                   .positions = positions,
                                   .num_heads = 8,
                                   .head_stride = 48,
                                   .y_head_stride = 48});
                   }});
  const TensorView rows = bench.Random({8192, 256}, dtype);
  const TensorView row_of = bench.Positions(8192, 8192).Reshape({2048, 4});
  const TensorView weights = bench.Random({2048, 4}), dweights = bench.Zeros({2048, 4});
  const TensorView drows = bench.Zeros({8192, 256}, dtype);
  loops.push_back({"CombineRows 2048x4x256" + suffix, 8192 * 256, 1.25 * size, [=, &stream] {
                     CombineRows(stream,
                                 {.rows = rows, .row_of = row_of, .weights = weights, .y = out});
                   }});
  loops.push_back({"CombineRows backward" + suffix, 8192 * 256, 2.25 * size, [=, &stream] {
                     CombineRowsBackward(stream, {.dy = dy,
                                                  .rows = rows,
                                                  .row_of = row_of,
                                                  .weights = weights,
                                                  .drows = drows,
                                                  .dweights = dweights});
                   }});
}

void AddSoftmaxLoops(Bench& bench, std::vector<Loop>& loops) {
  Stream& stream = bench.stream();
  for (const auto& [rows, columns] :
       std::vector<std::pair<int64_t, int64_t>>{{16384, 256}, {2048, 8192}}) {
    const TensorView logits = bench.Random({rows, columns}), dlogits = bench.Zeros({rows, columns});
    const TensorView targets = bench.Positions(rows, columns), loss = bench.Zeros({rows});
    loops.push_back(
        {"CrossEntropy " + std::to_string(rows) + "x" + std::to_string(columns), rows * columns, 8,
         [=, &stream] {
           CrossEntropy(stream,
                        {.logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits});
         }});
  }
  const RouterConfig config = {.num_experts = 16, .experts_per_token = 4};
  const TensorView logits = bench.Random({2048, 16}), scores = bench.Zeros({2048, 16});
  const TensorView expert_of = bench.Zeros({2048, 4}, DType::kI32);
  const TensorView weights = bench.Zeros({2048, 4}), counts = bench.Zeros({16}, DType::kI64);
  const TensorView bias = bench.Zeros({16});
  loops.push_back({"Route 2048x16 top 4", 2048 * 16, 8, [=, &stream] {
                     Route(stream, {.config = config,
                                    .logits = logits,
                                    .bias = bias,
                                    .scores = scores,
                                    .expert_of = expert_of,
                                    .weights = weights,
                                    .counts = counts});
                   }});
}

void RunLoops(int threads, bool optimizer_only, Report& report) {
  Bench bench(threads);
  std::vector<Loop> loops;
  AddStreams(bench, loops);
  AddOptimizerLoops(bench, loops);
  if (!optimizer_only) {
    for (DType dtype : {DType::kF32, DType::kBF16}) AddRowLoops(bench, dtype, loops);
    AddSoftmaxLoops(bench, loops);
  }
  std::vector<std::function<void()>> runs;
  for (const Loop& loop : loops) runs.push_back(loop.run);
  const std::vector<double> seconds = TimeInTurns(runs, {.rounds = 7, .threads = threads});
  std::printf("%d thread%s %32s  ns/element    GB/s  of stream\n", threads, threads > 1 ? "s" : " ",
              "");
  std::vector<double> rates;
  for (size_t i = 0; i < loops.size(); ++i) {
    rates.push_back(static_cast<double>(loops[i].elements) * loops[i].bytes_per_element /
                    seconds[i]);
  }
  const double stream = *std::max_element(rates.begin(), rates.begin() + kNumStreams);
  for (size_t i = 0; i < loops.size(); ++i) {
    const double n = static_cast<double>(loops[i].elements);
    std::printf("  %-40s %10.3f %7.1f %8.2f\n", loops[i].name.c_str(), seconds[i] / n * 1e9,
                rates[i] * 1e-9, rates[i] / stream);
    report.Add({{"what", "loop"}, {"name", loops[i].name}},
               {{"threads", threads},
                {"elements", n},
                {"bytes_per_element", loops[i].bytes_per_element},
                {"seconds", seconds[i]},
                {"stream_bytes_per_second", stream}});
  }
}

struct AttentionShape {
  int64_t sequences, length, heads, kv_heads, d, v;
};

// Multiplications and additions that a causal mask leaves, counted twice each: QK and PV forward,
// five products backward.
double AttentionFlops(const AttentionShape& s, bool backward) {
  const double pairs = static_cast<double>(s.sequences * s.heads) * static_cast<double>(s.length) *
                       static_cast<double>(s.length + 1) / 2;
  const double d = static_cast<double>(s.d), v = static_cast<double>(s.v);
  return 2 * pairs * (backward ? 3 * d + 2 * v : d + v);
}

void RunAttention(int threads, DType dtype, const AttentionShape& shape) {
  Bench bench(threads);
  Stream& stream = bench.stream();
  const int64_t tokens = shape.sequences * shape.length;
  const TensorView starts = bench.Zeros({shape.sequences + 1}, DType::kI32);
  for (int64_t s = 0; s <= shape.sequences; ++s) {
    starts.mutable_data<int32_t>()[s] = static_cast<int32_t>(s * shape.length);
  }
  const Shape q_shape = {tokens, shape.heads, shape.d}, k_shape = {tokens, shape.kv_heads, shape.d};
  const Shape v_shape = {tokens, shape.kv_heads, shape.v}, o_shape = {tokens, shape.heads, shape.v};
  const AttentionArgs forward = {.q = bench.Random(q_shape, dtype),
                                 .k = bench.Random(k_shape, dtype),
                                 .v = bench.Random(v_shape, dtype),
                                 .starts = starts,
                                 .o = bench.Zeros(o_shape, dtype),
                                 .log_sum_exp = bench.Zeros({tokens, shape.heads}),
                                 .scale = 0.2f};
  const AttentionBackwardArgs backward = {.dout = bench.Random(o_shape, dtype),
                                          .q = forward.q,
                                          .k = forward.k,
                                          .v = forward.v,
                                          .starts = starts,
                                          .o = forward.o,
                                          .log_sum_exp = forward.log_sum_exp,
                                          .dq = bench.Zeros(q_shape, dtype),
                                          .dk = bench.Zeros(k_shape, dtype),
                                          .dv = bench.Zeros(v_shape, dtype),
                                          .scale = 0.2f};
  const std::vector<double> seconds = TimeInTurns(
      {bench.OnEachThread([=](int64_t) { kernels::cpu::RunPeakLoop(dtype, kPeakIterations); }),
       [&] { Attention(stream, forward); }, [&] { AttentionBackward(stream, backward); }},
      {.threads = threads});
  const double peak =
      threads * static_cast<double>(kernels::cpu::RunPeakLoop(dtype, kPeakIterations)) / seconds[0];
  for (int i = 0; i < 2; ++i) {
    const double rate = AttentionFlops(shape, i == 1) / seconds[static_cast<size_t>(i) + 1];
    std::printf(
        "  %d x %4lldx%lld/%lld heads D %3lld V %3lld %s %-8s thr %d: %8.3f ms %6.1f GFLOP/s "
        "%3.0f%% of peak\n",
        static_cast<int>(shape.sequences), static_cast<long long>(shape.length),   // NOLINT
        static_cast<long long>(shape.heads),                                       // NOLINT
        static_cast<long long>(shape.kv_heads), static_cast<long long>(shape.d),   // NOLINT
        static_cast<long long>(shape.v), dtype == DType::kBF16 ? "bf16" : "f32 ",  // NOLINT
        i == 0 ? "forward" : "backward", threads, 1e3 * seconds[static_cast<size_t>(i) + 1],
        rate * 1e-9, 100 * rate / peak);
  }
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using sluice::bench::AttentionShape;
  using sluice::kernels::DType;
  sluice::bench::Report report(argc, argv);
  const std::vector<std::string>& parts = report.parts();
  const auto named = [&](const std::string& part) {
    return std::find(parts.begin(), parts.end(), part) != parts.end();
  };
  const auto wanted = [&](const std::string& part) { return parts.empty() || named(part); };
  sluice::bench::PrintEnvironment();
  for (int threads : {1, 2}) {
    if (wanted("loops") || named("optimizer"))
      sluice::bench::RunLoops(threads, !wanted("loops"), report);
    if (!wanted("attention")) continue;
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (const AttentionShape& shape : std::vector<AttentionShape>{
               {8, 256, 8, 8, 48, 32}, {1, 1024, 4, 4, 192, 128}, {2, 512, 8, 2, 64, 64}}) {
        sluice::bench::RunAttention(threads, dtype, shape);
      }
    }
  }
  return 0;
}
