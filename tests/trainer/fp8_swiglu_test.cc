// An MLP in FP8 quantises SwiGLU's result and its gradient as it computes them (trainer/model/
// swiglu.h): with the bits of the ops one by one, whatever the options, and whether a report looks
// or not.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/swiglu.h"
#include "tests/support/near.h"
#include "tests/support/tensor.h"
#include "trainer/model/fp8_health.h"
#include "trainer/model/mlp.h"

namespace sluice::trainer {
namespace {

using sluice::testing::Same;
using sluice::testing::Tensor;

// More than a tile of tokens; gate and up are cut at 80 each.
constexpr int64_t kTokens = 150, kHidden = 144, kWidth = 80;

struct MlpResults {
  Tensor y{{kTokens, kHidden}, DType::kBF16}, dx{{kTokens, kHidden}, DType::kBF16};
  Tensor gate_up_gradient{{2 * kWidth, kHidden}}, down_gradient{{kHidden, kWidth}};
  std::string health;
};

class MlpInFp8 {
 public:
  MlpInFp8(const Fp8Options& options, bool recompute, bool reports)
      : mlp_("m.", kHidden, kWidth, {.swiglu = recompute}, store_, layout_), reports_(reports) {
    CHECK(store_.Allocate(*device_, DType::kBF16, {1, 1}).ok());
    uint64_t seed = 1;
    for (const auto& parameter : store_.parameters()) {
      const Tensor values = Tensor::Random(parameter->shape, DType::kBF16, seed++, -0.2, 0.2);
      device_->Copy(values, parameter->value, stream());
      kernels::Fill(stream(), parameter->gradient, 0);
    }
    options_ = options;
    mlp_.ForEachLinear([&](Linear& linear) {
      CHECK(linear.Allocate(*device_, DType::kBF16, &options_).ok());
      linear.Repack(stream());
      linears_.push_back(&linear);
    });
    batch_.num_sequences = 1;
    batch_.sequence_length = kTokens;
    tape_.emplace(layout_, pool_);
  }

  MlpResults Run() {
    MlpResults results;
    mlp_.Forward(context(), x_, results.y);
    mlp_.BackwardInput(context(), dy_, results.dx);
    mlp_.BackwardWeight(context(), {}, {});
    Finish(results);
    return results;
  }
  MlpResults RunOpByOp() {
    MlpResults results;
    const Tensor gate_up({kTokens, 2 * kWidth}, DType::kBF16), d_gate_up = gate_up.Clone();
    const Tensor activated({kTokens, kWidth}, DType::kBF16), d_activated = activated.Clone();
    const Linear &in = *linears_[0], &out = *linears_[1];
    in.Forward(context(), x_, gate_up);
    kernels::Swiglu(stream(), {.gate_up = gate_up, .y = activated});
    out.Forward(context(), activated, results.y);
    out.BackwardInput(context(), dy_, d_activated);
    kernels::SwigluBackward(stream(),
                            {.dy = d_activated, .gate_up = gate_up, .dgate_up = d_gate_up});
    in.BackwardInput(context(), d_gate_up, results.dx);
    out.BackwardWeight(context(), {}, {});
    in.BackwardWeight(context(), {}, {});
    Finish(results);
    return results;
  }

 private:
  kernels::Stream& stream() { return device_->stream(kernels::StreamRole::kCompute); }
  Context context() {
    Context context{stream(), pool_, *tape_, batch_, {}, true, DType::kBF16};
    if (reports_) context.health = &health_;
    return context;
  }
  void Finish(MlpResults& results) {
    tape_->CheckIsEmpty();
    device_->Copy(linears_[0]->weight().gradient, results.gate_up_gradient, stream());
    device_->Copy(linears_[1]->weight().gradient, results.down_gradient, stream());
    results.health = health_.Serialize();
  }

  std::unique_ptr<kernels::DeviceContext> device_ = *kernels::DeviceContext::Create({});
  ParameterStore store_;
  TapeLayout layout_;
  Mlp mlp_;
  const bool reports_;
  Fp8Options options_;
  std::vector<Linear*> linears_;
  MicrobatchInput batch_;
  ActivationPool pool_{*device_, [](const absl::Status& why) { CHECK(false) << why.ToString(); },
                       nullptr};
  std::optional<Tape> tape_;
  Fp8Health health_;
  const Tensor x_ = Tensor::Random({kTokens, kHidden}, DType::kBF16, 9, -3, 3);
  const Tensor dy_ = Tensor::Random({kTokens, kHidden}, DType::kBF16, 10);
};

TEST(Fp8Swiglu, AnMlpHasTheBitsOfItsOpsOneByOne) {
  for (int variant = 0; variant < 4; ++variant) {
    Fp8Options options;
    if (variant == 1) options.activations.format = kernels::ScaleFormat::kPowerOfTwo;
    if (variant == 2) options.gradients.square_blocks = true;
    for (const bool reports : {false, true}) {
      SCOPED_TRACE(absl::StrCat("variant ", variant, reports ? ", reports" : ""));
      const bool recompute = variant == 3;
      const MlpResults found = MlpInFp8(options, recompute, reports).Run();
      const MlpResults wanted = MlpInFp8(options, false, reports).RunOpByOp();
      EXPECT_TRUE(Same(found.y, wanted.y));
      EXPECT_TRUE(Same(found.dx, wanted.dx));
      EXPECT_TRUE(Same(found.gate_up_gradient, wanted.gate_up_gradient));
      EXPECT_TRUE(Same(found.down_gradient, wanted.down_gradient));
      EXPECT_EQ(found.health, wanted.health);
    }
  }
}

}  // namespace
}  // namespace sluice::trainer
