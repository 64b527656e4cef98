// Time of the kernels that memory bounds, at DeepSeek-V3's shapes of 4096 tokens and eight experts
// a token. Bytes as docs/kernels.md counts them: each tensor once.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <initializer_list>

#include "kernels/ops/adamw.h"
#include "kernels/ops/block_quantize.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/router.h"
#include "kernels/ops/swiglu.h"
#include "kernels/ops/swiglu_quantize.h"
#include "tests/gpu_check/gpu_check.h"
#include "tests/gpu_check/timing.h"

namespace sluice::kernels {
namespace {

using testing::Numbers;
using testing::Tensor;

// Shapes of a GPU; of a software device, which only runs them, small ones.
class MemorySpeed : public testing::SpeedTest {
 protected:
  static int64_t Pick(int64_t on_gpu, int64_t here) {
    return testing::IsSoftwareDevice() ? here : on_gpu;
  }
  int64_t tokens() const { return Pick(4096, 8); }
  int64_t hidden() const { return Pick(7168, 256); }
  int64_t width() const { return Pick(2048, 256); }  // of an expert
  int64_t rows() const { return 8 * tokens(); }
  void ReportBytes(const char* name, const std::function<void()>& work,
                   std::initializer_list<const Tensor*> tensors) {
    double bytes = 0;
    for (const Tensor* tensor : tensors) bytes += static_cast<double>(tensor->view().bytes());
    Report(name, 0, bytes, 1, work);
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, MemorySpeed, ::testing::Values(testing::AllDevices().front()),
                         [](const auto& info) { return info.param.name; });

TEST_P(MemorySpeed, Norms) {
  const Tensor x = Numbers({tokens(), hidden()}, DType::kBF16), residual = x.Clone(), y = x.Clone();
  const Tensor w = Numbers({hidden()}, DType::kBF16), sum = x.Clone(), dw({hidden()});
  const Tensor inverse_rms({tokens()});
  ReportBytes("RMSNorm with residual",
              [&] {
                RmsNorm(stream(), {.x = x,
                                   .w = w,
                                   .y = y,
                                   .inverse_rms = inverse_rms,
                                   .residual = residual,
                                   .residual_out = sum});
              },
              {&x, &residual, &y, &sum});
  ReportBytes("RMSNorm, gradient of its weight",
              [&] {
                RmsNormBackwardWeight(stream(),
                                      {.dy = y, .x = x, .inverse_rms = inverse_rms, .dw = dw});
              },
              {&x, &y});
  ReportBytes(
      "RMSNorm, gradient of its input",
      [&] {
        RmsNormBackwardInput(
            stream(),
            {.dy = y, .x = x, .w = w, .inverse_rms = inverse_rms, .dx = sum, .dx_add = residual});
      },
      {&x, &y, &residual, &sum});
}

// Not bound by memory: what a sequence's tokens add is added in order.
TEST_P(MemorySpeed, LossesOfTheGate) {
  constexpr int kExperts = 64;
  const int64_t all = 4 * tokens();
  const RouterConfig config = {.num_experts = kExperts, .experts_per_token = 6};
  const Tensor logits = Tensor::Random({all, kExperts}, DType::kF32, 1), starts({5}, DType::kI32);
  const Tensor scores = Tensor::Random({all, kExperts}, DType::kF32, 2, 0, 1);
  for (int64_t s = 0; s < 5; ++s) starts.SetAt(s, static_cast<double>(s * tokens()));
  const Tensor load({4, kExperts}), balance({4}, DType::kF64), z({4}, DType::kF64);
  const auto bytes = static_cast<int64_t>(BalanceLossScratchBytes(stream(), all, config));
  const Tensor scratch({bytes}, DType::kU8);
  ReportBytes("losses of the gate",
              [&] {
                BalanceLoss(stream(), {.config = config,
                                       .logits = logits,
                                       .scores = scores,
                                       .starts = starts,
                                       .load = load,
                                       .balance = balance,
                                       .z = z,
                                       .scratch = scratch});
              },
              {&logits, &scores});
}

TEST_P(MemorySpeed, ExpertsRows) {
  const Tensor gate_up = Numbers({rows(), 2 * width()}, DType::kBF16);
  const Tensor y({rows(), width()}, DType::kBF16);
  ReportBytes("SwiGLU of the experts", [&] { Swiglu(stream(), {.gate_up = gate_up, .y = y}); },
              {&gate_up, &y});
  const Tensor codes({rows(), width()}, DType::kE4M3), scales({rows(), NumTiles(width())});
  ReportBytes("SwiGLU of the experts, quantised",
              [&] {
                SwigluQuantize(stream(), {.gate_up = gate_up, .rows = {codes, scales}});
              },
              {&gate_up, &codes, &scales});
  const Tensor both({rows(), 2 * width()}, DType::kE4M3);
  const Tensor both_scales({rows(), 2 * NumTiles(width())});
  const Tensor turned({2 * width(), NumColumnCodes(rows(), 1)}, DType::kE4M3);
  const Tensor turned_scales({NumColumnTiles(rows(), 1), 2 * width()});
  ReportBytes("gradient of SwiGLU, quantised",
              [&] {
                SwigluBackwardQuantize(stream(), {.dy = y,
                                                  .gate_up = gate_up,
                                                  .rows = {both, both_scales},
                                                  .columns = {turned, turned_scales, true}});
              },
              {&y, &gate_up, &both, &both_scales, &turned, &turned_scales});
  const Tensor wire({tokens(), WireRowBytes(hidden())}, DType::kU8);
  const Tensor sent({rows(), WireRowBytes(hidden())}, DType::kU8);
  const Tensor index = Tensor::RandomIntegers({rows()}, DType::kI32, 1, 0, tokens() - 1);
  ReportBytes("gather rows of the wire",
              [&] { GatherRows(stream(), {.x = wire, .index = index, .y = sent}); },
              {&sent, &sent});
  const Tensor outputs = Numbers({rows(), hidden()}, DType::kBF16);
  const Tensor combined({tokens(), hidden()}, DType::kBF16), weights({tokens(), 8});
  const Tensor row_of = Tensor::RandomIntegers({tokens(), 8}, DType::kI32, 2, 0, rows() - 1);
  ReportBytes("combine with weights",
              [&] {
                CombineRows(stream(),
                            {.rows = outputs, .row_of = row_of, .weights = weights, .y = combined});
              },
              {&outputs, &combined});
}

TEST_P(MemorySpeed, Quantiser) {
  const Tensor x = Numbers({tokens(), hidden()}, DType::kBF16);
  const Tensor codes({tokens(), hidden()}, DType::kE4M3), scales({tokens(), NumTiles(hidden())});
  const Tensor turned({hidden(), NumColumnCodes(tokens(), 1)}, DType::kE4M3);
  const Tensor turned_scales({NumColumnTiles(tokens(), 1), hidden()});
  ReportBytes("quantise along rows and columns",
              [&] {
                Quantize(
                    stream(),
                    {.x = x, .rows = {codes, scales}, .columns = {turned, turned_scales, true}});
              },
              {&x, &codes, &turned});
  const Tensor rows_codes = Numbers({rows(), width()}, DType::kE4M3);
  const Tensor rows_scales = Numbers({rows(), NumTiles(width())}, DType::kF32);
  const Tensor again({width(), NumColumnCodes(rows(), 1)}, DType::kE4M3);
  const Tensor again_scales({NumColumnTiles(rows(), 1), width()});
  ReportBytes("requantise rows as columns",
              [&] {
                RequantizeColumns(stream(), {.rows = {rows_codes, rows_scales},
                                             .columns = {again, again_scales, true}});
              },
              {&rows_codes, &again});
}

TEST_P(MemorySpeed, Weights) {
  const int64_t experts = Pick(8, 2), out = 2 * width();
  const Tensor w = Numbers({experts, out, hidden()}, DType::kBF16);
  const Tensor codes({experts, out, hidden()}, DType::kE4M3);
  const Tensor scales({experts, NumTiles(out), NumTiles(hidden())});
  const Tensor turned({experts, hidden(), out}, DType::kE4M3);
  const Tensor turned_scales({experts, NumTiles(hidden()), NumTiles(out)});
  ReportBytes(
      "quantise a weight both ways",
      [&] {
        QuantizeWeight(stream(), {.w = w, .weight = {codes, scales, turned, turned_scales, {}}});
      },
      {&w, &codes, &turned});
  const auto bytes = static_cast<int64_t>(PackedBytes(experts, out, hidden(), DType::kBF16));
  const Tensor storage({bytes}, DType::kU8);
  const PackedMatrix packed = {experts, out, hidden(), DType::kBF16, storage};
  ReportBytes("turn a weight",
              [&] { PackMatrix(stream(), {.b = w, .transpose = false, .packed = packed}); },
              {&w, &w});
  const int64_t n = Pick(100'000'000, 4096);
  const Tensor master = Numbers({n}, DType::kF32), gradient = Numbers({n}, DType::kF32);
  const Tensor m({n}), v({n}), value({n}, DType::kBF16);
  ReportBytes("AdamW, 10^8 parameters",
              [&] {
                AdamW(stream(),
                      {.master = master, .gradient = gradient, .m = m, .v = v, .value = value});
              },
              {&master, &master, &gradient, &m, &m, &v, &v, &value});
}

TEST_P(MemorySpeed, Vocabulary) {
  const int64_t vocabulary = Pick(129280, 512);
  const Tensor logits = Numbers({tokens(), vocabulary}, DType::kF32), loss({tokens()});
  const Tensor dlogits({tokens(), vocabulary}, DType::kBF16);
  const Tensor targets = Tensor::RandomIntegers({tokens()}, DType::kI32, 1, 0, vocabulary - 1);
  ReportBytes("cross-entropy with gradient",
              [&] {
                CrossEntropy(
                    stream(),
                    {.logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits});
              },
              {&logits, &logits, &logits, &dlogits});
  const Tensor dy = Numbers({tokens(), hidden()}, DType::kBF16), dtable({vocabulary, hidden()});
  ReportBytes("gradient of the embedding",
              [&] { EmbeddingBackward(stream(), {.dy = dy, .tokens = targets, .dtable = dtable}); },
              {&dy, &dy, &dy, &dy, &dy});
}

}  // namespace
}  // namespace sluice::kernels
