// A Mixture-of-Experts layer in FP8 (docs/fp8.md, "Who reads what"): what is sent to the experts,
// and that they and the shared expert read those bytes, while the gate reads BF16.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "absl/strings/match.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/swiglu.h"
#include "tests/support/near.h"
#include "tests/support/tensor.h"
#include "tests/trainer/one_rank.h"
#include "trainer/model/moe_layer.h"

namespace sluice::trainer {
namespace {

using kernels::NumTiles;
using kernels::QuantizedRows;
using sluice::testing::Same;
using sluice::testing::Tensor;

constexpr int64_t kLength = 24, kHidden = 144, kWidth = 32, kExperts = 4, kTopK = 2;

// Sends rows as the exchange it wraps does, and keeps the first that it is asked to send.
class RecordingExchange : public parallel::TokenExchange {
 public:
  explicit RecordingExchange(parallel::TokenExchange& inner) : inner_(inner) {}
  int num_local_experts() const override { return inner_.num_local_experts(); }
  int first_local_expert() const override { return inner_.first_local_expert(); }
  absl::Status Plan(ConstTensorView expert_of, Stream& stream,
                    parallel::ExchangePlan& plan) override {
    return inner_.Plan(expert_of, stream, plan);
  }
  absl::Status Dispatch(const parallel::ExchangePlan& plan, ConstTensorView x, TensorView rows,
                        Stream& stream) override {
    sent = Tensor(x.shape(), x.dtype());
    for (int64_t i = 0; i < x.num_elements(); ++i) {
      sent.SetAt(i, x.data<uint8_t>()[i]);
    }
    return inner_.Dispatch(plan, x, rows, stream);
  }
  absl::Status Combine(const parallel::ExchangePlan& plan, ConstTensorView rows,
                       ConstTensorView weights, ConstTensorView base, TensorView returned,
                       TensorView y, Stream& stream) override {
    return inner_.Combine(plan, rows, weights, base, returned, y, stream);
  }
  absl::Status CombineBackward(const parallel::ExchangePlan& plan, ConstTensorView dy,
                               TensorView returned, ConstTensorView weights, TensorView drows,
                               TensorView dweights, Stream& stream) override {
    return inner_.CombineBackward(plan, dy, returned, weights, drows, dweights, stream);
  }
  absl::Status DispatchBackward(const parallel::ExchangePlan& plan, ConstTensorView drows,
                                ConstTensorView base, TensorView dx, Stream& stream) override {
    return inner_.DispatchBackward(plan, drows, base, dx, stream);
  }
  Tensor sent;

 private:
  parallel::TokenExchange& inner_;
};

ModelConfig LayerConfig() {
  ModelConfig config = TinyConfig().model();
  config.set_hidden_size(kHidden);
  config.set_moe_intermediate_size(kWidth);
  return config;
}

class Fp8Moe : public ::testing::Test {
 protected:
  Fp8Moe() {
    CHECK(store_.Allocate(*device_, DType::kBF16, {1, 1}).ok());
    uint64_t seed = 1;
    for (const auto& parameter : store_.parameters()) {
      const Tensor values = Tensor::Random(parameter->shape, DType::kBF16, seed++, -0.2, 0.2);
      device_->Copy(values, parameter->value, stream());
    }
    CHECK(layer_.Allocate(*device_).ok());
    kernels::Fill(stream(), layer_.bias(), 0);
    layer_.ForEachLinear([&](Linear& linear) {
      CHECK(linear.Allocate(*device_, DType::kBF16, &options_).ok());
      linear.Repack(stream());
      linears_[linear.weight().pieces[0].name] = &linear;
    });
    batch_.num_sequences = 1;
    batch_.sequence_length = kLength;
    batch_.sequence_starts = starts_;
    tape_.emplace(layout_, pool_);
  }

  kernels::Stream& stream() { return device_->stream(kernels::StreamRole::kCompute); }
  const Linear& Find(const std::string& name) const {
    return *linears_.at("m." + name + ".weight");
  }

  // down(swiglu(gate_up(rows))), op by op.
  Tensor Run(const QuantizedRows& rows, const std::string& prefix, ConstTensorView offsets) {
    const int64_t count = rows.codes.extent(0);
    const Tensor gate_up({count, 2 * kWidth}, DType::kBF16),
        activated({count, kWidth}, DType::kBF16);
    const Tensor codes({count, kWidth}, DType::kE4M3), scales({count, NumTiles(kWidth)});
    Tensor y({count, kHidden}, DType::kBF16);
    constexpr auto kForward = kernels::Fp8Direction::kForward;
    kernels::Fp8Matmul(stream(),
                       {rows, Find(prefix + "gate_proj").quantized(), kForward, offsets, gate_up});
    kernels::Swiglu(stream(), {.gate_up = gate_up, .y = activated});
    kernels::Quantize(stream(), {.x = activated, .rows = {codes, scales}});
    kernels::Fp8Matmul(
        stream(), {{codes, scales}, Find(prefix + "down_proj").quantized(), kForward, offsets, y});
    return y;
  }

  std::unique_ptr<kernels::DeviceContext> device_ = *kernels::DeviceContext::Create({});
  std::unique_ptr<parallel::Communicator> group_ = parallel::CreateSelfCommunicator();
  std::unique_ptr<parallel::TokenExchange> inner_ =
      *parallel::TokenExchange::Create(*device_, *group_, kExperts, kTopK);
  RecordingExchange exchange_{*inner_};
  const ModelConfig config_ = LayerConfig();
  ParameterStore store_;
  TapeLayout layout_;
  MoeLayer layer_{config_, "m.", exchange_, {}, store_, layout_};
  const Fp8Options options_;
  std::map<std::string, Linear*> linears_;
  const Tensor starts_ = Tensor::Of({0, kLength});
  MicrobatchInput batch_;
  ActivationPool pool_{*device_, [](const absl::Status& why) { CHECK(false) << why.ToString(); },
                       nullptr};
  std::optional<Tape> tape_;
};

TEST_F(Fp8Moe, ExpertsReadTheBytesThatAreSentAndTheGateReadsBf16) {
  const Tensor x = Tensor::Random({kLength, kHidden}, DType::kBF16, 9, -3, 3);
  const Context context{stream(), pool_, *tape_, batch_, {}, true, DType::kBF16};
  const Tensor y({kLength, kHidden}, DType::kBF16);
  layer_.Route(context, x);
  ASSERT_TRUE(layer_.Dispatch(context, x).ok());
  layer_.Experts(context, x, y);

  const Tensor codes({kLength, kHidden}, DType::kE4M3), scales({kLength, NumTiles(kHidden)});
  const Tensor wire({kLength, kernels::WireRowBytes(kHidden)}, DType::kU8);
  kernels::QuantizeOptions power_of_two;
  power_of_two.format = kernels::ScaleFormat::kPowerOfTwo;
  kernels::Quantize(stream(), {.x = x, .rows = {codes, scales}, .options = power_of_two});
  kernels::PackWireRows(stream(), {.rows = {codes, scales}, .wire = wire});
  EXPECT_TRUE(Same(exchange_.sent, wire));
  const Tensor shared = Run({codes, scales}, "shared_experts.", {});
  EXPECT_TRUE(Same(y, shared));

  // FP32 from BF16 values: a dot product of 144 terms, and the sigmoid's own roundings.
  const TensorView gate = store_.Find("m.gate.weight")->value;
  const ConstTensorView scores = layer_.scores(context);
  for (int64_t t = 0; t < kLength; ++t) {
    for (int64_t e = 0; e < kExperts; ++e) {
      double logit = 0;
      for (int64_t i = 0; i < kHidden; ++i) {
        logit += x.At(t * kHidden + i) *
                 kernels::ToFloat(gate.data<kernels::BFloat16>()[e * kHidden + i]);
      }
      ASSERT_NEAR(scores.data<float>()[t * kExperts + e], 1 / (1 + std::exp(-logit)), 1e-5);
    }
  }

  // Rows by expert, then by token, as one rank receives them.
  std::vector<int64_t> token_of;
  std::vector<int> bounds = {0};
  for (int e = 0; e < kExperts; ++e) {
    for (int64_t i = 0; i < kLength * kTopK; ++i) {
      if (layer_.expert_of(context).data<int32_t>()[i] == e) token_of.push_back(i / kTopK);
    }
    bounds.push_back(static_cast<int>(token_of.size()));
  }
  const Tensor rows({kLength * kTopK, kHidden}, DType::kE4M3);
  const Tensor row_scales({kLength * kTopK, NumTiles(kHidden)}),
      offsets({kExperts + 1}, DType::kI32);
  for (int64_t r = 0; r < kLength * kTopK; ++r) {
    for (int64_t i = 0; i < kHidden; ++i) {
      rows.SetAt(r * kHidden + i, codes.At(token_of[r] * kHidden + i));
    }
    for (int64_t i = 0; i < NumTiles(kHidden); ++i) {
      row_scales.SetAt(r * NumTiles(kHidden) + i, scales.At(token_of[r] * NumTiles(kHidden) + i));
    }
  }
  for (int e = 0; e <= kExperts; ++e) offsets.SetAt(e, bounds[e]);
  const Tensor out = Run({rows, row_scales}, "experts.0.", offsets);

  // y = shared + sum over experts ascending of weight * output, all outputs in BF16, the sum in
  // FP32 and rounded once: to the bit.
  ASSERT_TRUE(layer_.Combine(context, y).ok());
  const ConstTensorView expert_of = layer_.expert_of(context), weights = layer_.weights(context);
  const Tensor sums = shared.To(DType::kF32);
  for (int64_t r = 0; r < kLength * kTopK; ++r) {  // ascending by expert
    const int64_t t = token_of[r];
    int64_t k = t * kTopK;
    while (r >= bounds[expert_of.data<int32_t>()[k] + 1] ||
           r < bounds[expert_of.data<int32_t>()[k]]) {
      ++k;
    }
    const float weight = weights.data<float>()[k];
    for (int64_t i = 0; i < kHidden; ++i) {
      const int64_t at = t * kHidden + i;
      const auto output = static_cast<float>(out.At(r * kHidden + i));
      sums.SetAt(at,
                 static_cast<double>(std::fmaf(weight, output, static_cast<float>(sums.At(at)))));
    }
  }
  EXPECT_TRUE(Same(y, sums.To(DType::kBF16)));
}

}  // namespace
}  // namespace sluice::trainer
