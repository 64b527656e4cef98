// Speed of the matrix products: share of the arithmetic peak, and ratio to oneDNN, both measured in
// turns with ours.
//   matmul_bench [shapes] [grouped] [replay] [1] [2] [quick] [--json FILE]
// Default: all three, with 1 and 2 threads. quick: fewer rounds, for a first look or a busy hour.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/philox.h"
#include "kernels/cpu/peak_loop.h"
#include "kernels/ops/matmul.h"
#include "tests/bench/onednn.h"
#include "tests/bench/report.h"
#include "tests/bench/timing.h"

namespace sluice::bench {
namespace {

using namespace kernels;  // NOLINT

// Collected for the summary at the end.
struct Results {
  std::vector<double> share_plain[2], share_dw[2], versus_onednn[2][2], bf16_over_f32;
  double grouped_128[2] = {1, 1}, grouped_32[2] = {1, 1}, replay[2] = {0, 0};
  Report* report = nullptr;
  TimingOptions timing;
};

// A device of some threads and tensors on it.
class Bench {
 public:
  explicit Bench(int threads) : threads_(threads) {
    auto created = DeviceContext::Create({.num_threads = threads});
    CHECK(created.ok()) << created.status().ToString();
    device_ = *std::move(created);
    SetOneDnnThreads(threads);
  }
  int threads() const { return threads_; }
  TimingOptions Timing(const Results& results) const {
    TimingOptions timing = results.timing;
    timing.threads = threads_;
    return timing;
  }
  Stream& stream() { return device_->stream(StreamRole::kCompute); }
  TensorView Allocate(Shape shape, DType dtype) {
    auto buffer = device_->Allocate(
        std::max<size_t>(size_t{64} << 10,
                         static_cast<size_t>(shape.num_elements()) * SizeOf(dtype)),
        MemoryTag::kScratch);
    CHECK(buffer.ok()) << buffer.status().ToString();
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().View(dtype, shape);
  }
  TensorView Random(Shape shape, DType dtype) {
    const TensorView view = Allocate(shape, dtype);
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
  PackedMatrix Pack(const TensorView& b, bool transpose) {
    const int rank = b.shape().rank();
    PackedMatrix packed;
    packed.num_matrices = rank == 3 ? b.extent(0) : 1;
    packed.k = b.extent(transpose ? rank - 1 : rank - 2);
    packed.n = b.extent(transpose ? rank - 2 : rank - 1);
    packed.dtype = b.dtype();
    packed.storage = Allocate(
        {static_cast<int64_t>(PackedBytes(packed.num_matrices, packed.k, packed.n, b.dtype()))},
        DType::kU8);
    PackMatrix(stream(), {.b = b, .transpose = transpose, .packed = packed});
    return packed;
  }
  // One run of the peak loop on every thread; flops() of it.
  std::function<void()> Peak(DType dtype) {
    return [this, dtype] {
      CpuStream::From(stream()).Run([&](ThreadPool& pool) {
        pool.ParallelFor(threads_,
                         [&](int64_t) { kernels::cpu::RunPeakLoop(dtype, kPeakIterations); });
      });
    };
  }
  double PeakFlops(DType dtype) const {
    return static_cast<double>(threads_) *
           static_cast<double>(kernels::cpu::RunPeakLoop(dtype, 0) +
                               PerIteration(dtype) * kPeakIterations);
  }
  void FreeAll() { buffers_.clear(); }

 private:
  static constexpr int64_t kPeakIterations = 100000;
  static int64_t PerIteration(DType dtype) { return kernels::cpu::RunPeakLoop(dtype, 1); }
  const int threads_;
  std::unique_ptr<DeviceContext> device_;
  std::vector<Buffer> buffers_;
};

struct ProductShape {
  int64_t m, n, k;
};
constexpr ProductShape kShapes[] = {{2048, 1024, 256}, {2048, 256, 1024}, {512, 2816, 1024},
                                    {256, 512, 512},   {64, 512, 256},    {4096, 32000, 256}};

enum class Layout : uint8_t { kNN, kNT, kTN };
constexpr const char* kLayoutNames[] = {"NN", "NT", "TN"};

// One line: ours unpacked and packed and oneDNN's unpacked and packed, in % of peak. Returns our
// best-suited time (unpacked) in seconds.
double BenchProduct(Bench& bench, const ProductShape& s, DType dtype, Layout layout,
                    Results& results) {
  const bool ta = layout == Layout::kTN, tb = layout == Layout::kNT;
  const TensorView a = bench.Random(ta ? Shape{s.k, s.m} : Shape{s.m, s.k}, dtype);
  const TensorView b = bench.Random(tb ? Shape{s.n, s.k} : Shape{s.k, s.n}, dtype);
  const TensorView c = bench.Allocate({s.m, s.n}, DType::kF32);
  const PackedMatrix packed = bench.Pack(b, tb);
  OneDnnProduct theirs = {s.m, s.n,   s.k,          dtype,        ta,
                          tb,  false, a.raw_data(), b.raw_data(), c.raw_mutable_data()};
  std::vector<std::function<void()>> runs = {
      bench.Peak(dtype), [&] {
        Matmul(bench.stream(), {.a = a, .b = b, .c = c, .transpose_a = ta, .transpose_b = tb});
      }};
  if (!ta) {
    runs.emplace_back([&] { PackedMatmul(bench.stream(), {.a = a, .b = packed, .c = c}); });
  }
  if (auto run = MakeOneDnnProduct(theirs)) runs.push_back(run);
  theirs.packed = true;
  if (auto run = MakeOneDnnProduct(theirs); run && !ta) runs.push_back(run);
  const std::vector<double> t = TimeInTurns(runs, bench.Timing(results));
  const double flops =
      2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
  const double peak = bench.PeakFlops(dtype) / t[0];
  const auto share = [&](size_t i) { return i < t.size() ? flops / t[i] / peak : 0.0; };
  const size_t onednn = ta ? 2 : 3;
  std::printf("%-4s %d thr %5ldx%5ldx%5ld %s %9.1f us %7.1f GF/s  ours %5.1f%%",
              NameOf(dtype).data(), bench.threads(), s.m, s.n, s.k,
              kLayoutNames[static_cast<int>(layout)], t[1] * 1e6, flops / t[1] * 1e-9,
              100 * share(1));
  if (!ta) std::printf(" packed %5.1f%%", 100 * share(2));
  if (onednn < t.size()) {
    std::printf("%s  oneDNN %5.1f%%", ta ? "              " : "", 100 * share(onednn));
    if (!ta && onednn + 1 < t.size()) std::printf(" packed %5.1f%%", 100 * share(onednn + 1));
    std::printf("%s  ratio %.2f", ta ? "              " : "", t[onednn] / t[1]);
    results.versus_onednn[dtype == DType::kBF16][bench.threads() - 1].push_back(t[onednn] / t[1]);
  }
  std::printf("  (peak %.0f)\n", peak * 1e-9);
  results.report->Add(
      {{"what", "product"},
       {"dtype", std::string(NameOf(dtype))},
       {"layout", kLayoutNames[static_cast<int>(layout)]}},
      {{"threads", bench.threads()},
       {"m", s.m},
       {"n", s.n},
       {"k", s.k},
       {"seconds", t[1]},
       {"flops", flops},
       {"peak", peak},
       {"packed_seconds", ta ? NAN : t[2]},
       {"onednn_seconds", onednn < t.size() ? t[onednn] : NAN},
       {"onednn_packed_seconds", !ta && onednn + 1 < t.size() ? t[onednn + 1] : NAN}});
  std::fflush(stdout);
  const bool bf16 = dtype == DType::kBF16;
  if (ta) {
    results.share_dw[bf16].push_back(share(1));
  } else if (s.m >= 256) {
    results.share_plain[bf16].push_back(share(1));
  }
  bench.FreeAll();
  return t[1];
}

void BenchShapes(int threads, Results& results) {
  Bench bench(threads);
  for (const ProductShape& shape : kShapes) {
    for (Layout layout : {Layout::kNN, Layout::kNT, Layout::kTN}) {
      const double f32 = BenchProduct(bench, shape, DType::kF32, layout, results);
      const double bf16 = BenchProduct(bench, shape, DType::kBF16, layout, results);
      results.bf16_over_f32.push_back(f32 / bf16);
    }
  }
}

TensorView EvenOffsets(Bench& bench, int64_t experts, int64_t rows_each) {
  const TensorView offsets = bench.Allocate({experts + 1}, DType::kI32);
  for (int64_t e = 0; e <= experts; ++e) {
    offsets.mutable_data<int32_t>()[e] = static_cast<int32_t>(e * rows_each);
  }
  return offsets;
}

// `experts` experts [k -> n] of `rows` tokens each: forward (packed weights) and weight gradient.
void BenchGrouped(Bench& bench, int64_t experts, int64_t rows, DType dtype, Results& results) {
  const int64_t n = 512, k = 256, tokens = experts * rows;
  const TensorView x = bench.Random({tokens, k}, dtype), dy = bench.Random({tokens, n}, dtype);
  const TensorView w = bench.Random({experts, n, k}, dtype);
  const TensorView y = bench.Allocate({tokens, n}, DType::kF32);
  const TensorView dw = bench.Allocate({experts, n, k}, DType::kF32);
  const TensorView offsets = EvenOffsets(bench, experts, rows);
  const PackedMatrix packed = bench.Pack(w, true);
  const std::vector<std::function<void()>> runs = {
      bench.Peak(dtype),
      [&] { GroupedMatmul(bench.stream(), {.x = x, .w = packed, .offsets = offsets, .y = y}); },
      [&] {
        GroupedWeightGradient(bench.stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = dw});
      },
      [&] { PackMatrix(bench.stream(), {.b = w, .transpose = true, .packed = packed}); }};
  const std::vector<double> t = TimeInTurns(runs, bench.Timing(results));
  const double flops = 2.0 * static_cast<double>(tokens * n * k);
  const double peak = bench.PeakFlops(dtype) / t[0], forward = flops / t[1] / peak;
  std::printf(
      "%-4s %d thr %3ld experts x %3ld rows, %ldx%ld: forward %5.1f%% of peak, dW %5.1f%%, packing "
      "%.2f of forward's time\n",
      NameOf(dtype).data(), bench.threads(), experts, rows, n, k, 100 * forward,
      100 * flops / t[2] / peak, t[3] / t[1]);
  std::fflush(stdout);
  results.report->Add({{"what", "grouped"}, {"dtype", std::string(NameOf(dtype))}},
                      {{"threads", bench.threads()},
                       {"experts", experts},
                       {"rows", rows},
                       {"n", n},
                       {"k", k},
                       {"seconds", t[1]},
                       {"flops", flops},
                       {"peak", peak},
                       {"weight_gradient_seconds", t[2]}});
  const bool bf16 = dtype == DType::kBF16;
  if (rows >= 128) results.grouped_128[bf16] = std::min(results.grouped_128[bf16], forward);
  if (rows == 32) results.grouped_32[bf16] = std::min(results.grouped_32[bf16], forward);
  bench.FreeAll();
}

// The matrix products of one step of preset bench_cpu. Attention's are those of its heads without a
// causal mask; their right-hand operand is new in each step, so that packing it counts.
struct StepProduct {
  const char* name;
  int64_t m, n, k, repeats, experts;  // experts: independent products of m rows each; 0: one
  bool packs = false;
};
constexpr int64_t kTokens = 2048, kLayers = 4, kHeads = 64;  // 8 sequences of 8 heads
constexpr StepProduct kStep[] = {{"q_a", kTokens, 96, 256, kLayers, 0},
                                 {"q_b", kTokens, 384, 96, kLayers, 0},
                                 {"kv_a", kTokens, 80, 256, kLayers, 0},
                                 {"kv_b", kTokens, 512, 64, kLayers, 0},
                                 {"o", kTokens, 256, 256, kLayers, 0},
                                 {"attention Q K", 256, 256, 48, kLayers, kHeads, true},
                                 {"attention P V", 256, 32, 256, kLayers, kHeads, true},
                                 {"dense gate, up", kTokens, 1024, 256, 2, 0},
                                 {"dense down", kTokens, 256, 1024, 1, 0},
                                 {"shared", kTokens, 256, 256, 9, 0},
                                 {"experts", 512, 256, 256, 9, 16},
                                 {"head", kTokens, 8192, 256, 1, 0}};

// Forward y = x W^T, input gradient dx = dy W, weight gradient dW += dy^T x.
std::vector<std::function<void()>> StepRuns(Bench& bench, const StepProduct& p, DType dtype) {
  const int64_t experts = std::max<int64_t>(1, p.experts), rows = p.m * experts;
  const TensorView x = bench.Random({rows, p.k}, dtype), dy = bench.Random({rows, p.n}, dtype);
  const TensorView w = bench.Random({experts, p.n, p.k}, dtype);
  const TensorView y = bench.Allocate({rows, p.n}, dtype), dx = bench.Allocate({rows, p.k}, dtype);
  const TensorView dw = bench.Allocate({experts, p.n, p.k}, DType::kF32);
  const TensorView offsets = EvenOffsets(bench, experts, p.m);
  const PackedMatrix forward = bench.Pack(w, true), backward = bench.Pack(w, false);
  Stream& stream = bench.stream();
  if (p.experts == 0) {
    const TensorView dw2 = dw.Reshape({p.n, p.k});
    return {[=, &stream] { PackedMatmul(stream, {.a = x, .b = forward, .c = y}); },
            [=, &stream] { PackedMatmul(stream, {.a = dy, .b = backward, .c = dx}); },
            [=, &stream] {
              Matmul(stream, {.a = dy, .b = x, .c = dw2, .transpose_a = true, .accumulate = true});
            }};
  }
  const auto grouped = [=, &stream](const TensorView& in, const PackedMatrix& packed,
                                    const TensorView& out, bool transpose) {
    if (p.packs) PackMatrix(stream, {.b = w, .transpose = transpose, .packed = packed});
    GroupedMatmul(stream, {.x = in, .w = packed, .offsets = offsets, .y = out});
  };
  return {[=] { grouped(x, forward, y, true); }, [=] { grouped(dy, backward, dx, false); },
          [=, &stream] {
            GroupedWeightGradient(stream, {.dy = dy, .x = x, .offsets = offsets, .dw = dw});
          }};
}

void BenchReplay(int threads, DType dtype, Results& results) {
  Bench bench(threads);
  double total_flops = 0, total_seconds = 0, peak_seconds = 0, attention_seconds = 0;
  std::printf("replay of the matrix products of a bench_cpu step, %s, %d thr\n",
              NameOf(dtype).data(), threads);
  for (const StepProduct& p : kStep) {
    std::vector<std::function<void()>> runs = StepRuns(bench, p, dtype);
    runs.insert(runs.begin(), bench.Peak(dtype));
    const std::vector<double> t = TimeInTurns(runs, bench.Timing(results));
    const double peak = bench.PeakFlops(dtype) / t[0];
    bench.FreeAll();
    const double flops =
        2.0 * static_cast<double>(p.m * p.n * p.k * std::max<int64_t>(1, p.experts));
    const double seconds = (t[1] + t[2] + t[3]) * static_cast<double>(p.repeats);
    std::printf(
        "  %-15s %5ldx%5ldx%5ld x%2ld  fwd %5.1f%%  dX %5.1f%%  dW %5.1f%% of peak  %7.2f ms\n",
        p.name, p.m, p.n, p.k, std::max<int64_t>(1, p.experts), 100 * flops / t[1] / peak,
        100 * flops / t[2] / peak, 100 * flops / t[3] / peak, seconds * 1e3);
    std::fflush(stdout);
    total_seconds += seconds;
    attention_seconds += p.packs ? seconds : 0;
    total_flops += 3 * flops * static_cast<double>(p.repeats);
    peak_seconds += 3 * flops * static_cast<double>(p.repeats) / peak;
  }
  const double share = peak_seconds / total_seconds;
  std::printf("  all: %.1f GFLOP in %.1f ms, %.1f GF/s, %.1f%% of peak\n", total_flops * 1e-9,
              total_seconds * 1e3, total_flops / total_seconds * 1e-9, 100 * share);
  results.replay[dtype == DType::kBF16] = share;
  results.report->Add({{"what", "replay"}, {"dtype", std::string(NameOf(dtype))}},
                      {{"threads", threads},
                       {"seconds", total_seconds},
                       {"attention_seconds", attention_seconds},
                       {"flops", total_flops},
                       {"peak", total_flops / peak_seconds}});
}

void PrintGoal(const char* what, double value, double must, double target) {
  if (value <= 0) return;
  std::printf("  %-64s %.2f  (must %.2f, target %.2f) %s\n", what, value, must, target,
              value >= target ? "target"
              : value >= must ? "ok"
                              : "BELOW");
}

double Worst(const std::vector<double>& values) {
  return values.empty() ? 0.0 : *std::min_element(values.begin(), values.end());
}

void PrintSummary(const Results& r) {
  std::printf("summary\n");
  PrintGoal("f32 / peak, M >= 256, NN and NT, worst", Worst(r.share_plain[0]), 0.82, 0.90);
  PrintGoal("f32 / peak, M >= 256, NN and NT, geometric mean", GeometricMean(r.share_plain[0]),
            0.82, 0.90);
  PrintGoal("bf16 / peak, M >= 256, NN and NT, worst", Worst(r.share_plain[1]), 0.80, 0.90);
  PrintGoal("bf16 / peak, M >= 256, NN and NT, geometric mean", GeometricMean(r.share_plain[1]),
            0.80, 0.90);
  PrintGoal("TN f32 / peak, worst", Worst(r.share_dw[0]), 0.72, 0.85);
  PrintGoal("TN bf16 / peak, worst", Worst(r.share_dw[1]), 0.72, 0.85);
  std::vector<double> all;
  for (const auto& type : r.versus_onednn) {
    for (const auto& ratios : type) all.insert(all.end(), ratios.begin(), ratios.end());
  }
  PrintGoal("ours / oneDNN unpacked, geometric mean", GeometricMean(all), 0.95, 1.05);
  if (r.grouped_128[0] < 1) {
    PrintGoal("grouped, 128 rows each, f32 / peak", r.grouped_128[0], 0.75, 0.85);
    PrintGoal("grouped, 128 rows each, bf16 / peak", r.grouped_128[1], 0.75, 0.85);
    PrintGoal("grouped, 32 rows each, f32 / peak", r.grouped_32[0], 0.50, 0.70);
    PrintGoal("grouped, 32 rows each, bf16 / peak", r.grouped_32[1], 0.50, 0.70);
  }
  PrintGoal("bf16 / f32, same shape, geometric mean", GeometricMean(r.bf16_over_f32), 1.75, 1.9);
  PrintGoal("replay / peak, f32", r.replay[0], 0.77, 0.85);
  PrintGoal("replay / peak, bf16", r.replay[1], 0.77, 0.85);
}

int Main(Report& report) {
  const std::vector<std::string>& parts = report.parts();
  // Named, or none of its kind was named.
  const auto wanted = [&](const std::string& part, const std::vector<std::string>& kind) {
    const auto named = [&](const std::string& name) {
      return std::find(parts.begin(), parts.end(), name) != parts.end();
    };
    return named(part) || std::none_of(kind.begin(), kind.end(), named);
  };
  const std::vector<std::string> kinds = {"shapes", "grouped", "replay"}, counts = {"1", "2"};
  PrintEnvironment();
  std::printf("oneDNN: %s. c is f32; 100%% is the peak of registers-only multiply-adds, same run\n",
              OneDnnVersion().c_str());
  Results results;
  results.report = &report;
  if (std::find(parts.begin(), parts.end(), "quick") != parts.end())
    results.timing = {.rounds = 5, .max_seconds = 0.7, .seconds_per_sample = 0.003};
  for (int threads : {1, 2}) {
    if (!wanted(std::to_string(threads), counts)) continue;
    if (wanted("shapes", kinds)) BenchShapes(threads, results);
    if (wanted("grouped", kinds)) {
      Bench bench(threads);
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        BenchGrouped(bench, 16, 128, dtype, results);
        BenchGrouped(bench, 64, 32, dtype, results);
      }
    }
    if (!wanted("replay", kinds)) continue;
    for (DType dtype : {DType::kF32, DType::kBF16}) BenchReplay(threads, dtype, results);
  }
  PrintSummary(results);
  return 0;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::Report report(argc, argv);
  return sluice::bench::Main(report);
}
