// The FP8 recipe in a linear layer and in a model: what is quantised from what, what is kept.
#include "trainer/model/fp8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>

#include "kernels/ops/cast.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/matmul.h"
#include "tests/support/near.h"
#include "tests/trainer/one_rank.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/resolve_config.h"
#include "trainer/model/fp8_health.h"
#include "trainer/model/linear.h"

namespace sluice::trainer {
namespace {

using kernels::Fp8Direction;
using kernels::NumColumnTiles;
using kernels::NumTiles;
using kernels::QuantizedColumns;
using kernels::QuantizedRows;
using kernels::QuantizedWeight;
using sluice::testing::Same;
using sluice::testing::Tensor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// ---- blocks of weights

NamedPiece Rows(const std::string& name, int64_t rows, int64_t in, int64_t first, int64_t count,
                int64_t at) {
  return {name, {rows, in}, first * in, at * in, count * in};
}

TEST(RowTiles, EachNamedTensorIsCutFromItsOwnFirstRow) {
  Parameter fused;  // gate and up of 10944 rows each would be 85.5 blocks; here 1.5
  fused.shape = {384, 2};
  fused.pieces = {Rows("gate", 192, 2, 0, 192, 0), Rows("up", 192, 2, 0, 192, 192)};
  EXPECT_THAT(RowTiles(fused), ElementsAre(0, 128, 192, 320, 384));
  Parameter alone;
  alone.shape = {576, 2};
  alone.pieces = {Rows("kv_a", 576, 2, 0, 576, 0)};
  EXPECT_THAT(RowTiles(alone), ElementsAre(0, 128, 256, 384, 512, 576));
}

TEST(RowTiles, OfEqualPartsIsSeen) {
  EXPECT_EQ(EqualParts({0, 128, 256}), 1);
  EXPECT_EQ(EqualParts({0, 16}), 1);
  EXPECT_EQ(EqualParts({0, 128, 256, 384, 512, 576}), 1);
  EXPECT_EQ(EqualParts({0, 128, 192, 320, 384}), 2);
  EXPECT_EQ(EqualParts({0, 80, 160, 240}), 3);
  EXPECT_EQ(EqualParts({0, 128, 192, 320, 400}), 0);
  EXPECT_EQ(EqualParts({0, 64, 96, 160, 192}), 0);
  EXPECT_EQ(EqualParts({0, 128, 192, 320}), 0);
}

// All heads' nope rows lie before all heads' v rows; blocks are those of the named tensor's rows.
TEST(RowTiles, ReorderedRowsShareATileOnlyInsideOneBlock) {
  Parameter kv;  // 3 heads of 32 nope and 32 v rows: blocks are rows 0-127 (heads 0, 1) and 128-191
  kv.shape = {192, 2};
  for (int a = 0; a < 3; ++a) kv.pieces.push_back(Rows("kv_b", 192, 2, a * 64, 32, a * 32));
  for (int a = 0; a < 3; ++a)
    kv.pieces.push_back(Rows("kv_b", 192, 2, a * 64 + 32, 32, 96 + a * 32));
  EXPECT_THAT(RowTiles(kv), ElementsAre(0, 64, 96, 160, 192));
}

TEST(RowTiles, ExpertsAreCutAlike) {
  Parameter experts;
  experts.shape = {2, 160, 2};
  for (int e = 0; e < 2; ++e) {
    const std::string name = std::to_string(e);
    experts.pieces.push_back(Rows("gate" + name, 80, 2, 0, 80, e * 160));
    experts.pieces.push_back(Rows("up" + name, 80, 2, 0, 80, e * 160 + 80));
  }
  EXPECT_THAT(RowTiles(experts), ElementsAre(0, 80, 160));
  EXPECT_EQ(NumFp8Scales(experts), 2 * 2 * 1);
}

// ---- one layer

constexpr int64_t kTokens = 150, kIn = 144, kOut = 160;

class Layer {
 public:
  explicit Layer(Linear::Keeps keeps, bool fp8 = true) {
    device_ = *kernels::DeviceContext::Create({.num_threads = 1});
    Parameter fused;  // of 80 and 80 rows, so cut at 80
    fused.shape = {kOut, kIn};
    fused.pieces = {Rows("gate.weight", kOut / 2, kIn, 0, kOut / 2, 0),
                    Rows("up.weight", kOut / 2, kIn, 0, kOut / 2, kOut / 2)};
    weight_ = &store_.Add(std::move(fused));
    linear.emplace(*weight_, layout_, keeps);
    CHECK(store_.Allocate(*device_, DType::kBF16, {1, 1}).ok());
    const Tensor values = Tensor::Random({kOut, kIn}, DType::kBF16, 1);
    stream().Synchronize().IgnoreError();
    device_->Copy(values, weight_->value, stream());
    CHECK(linear->Allocate(*device_, DType::kBF16, fp8 ? &options : nullptr).ok());
    linear->Repack(stream());
    pool_.emplace(
        *device_, [](const absl::Status& why) { CHECK(false) << why.ToString(); }, nullptr);
    tape.emplace(layout_, *pool_);
  }
  Context context() { return Context{stream(), *pool_, *tape, batch_, {}, true, DType::kBF16}; }
  kernels::Stream& stream() { return device_->stream(kernels::StreamRole::kCompute); }
  kernels::DeviceContext& device() { return *device_; }
  TensorView gradient() const { return weight_->gradient; }
  TensorView value() const { return weight_->value; }

  Fp8Options options;

 private:
  std::unique_ptr<kernels::DeviceContext> device_;  // outlives what lies on it
  ParameterStore store_;
  TapeLayout layout_;
  Parameter* weight_;
  std::optional<ActivationPool> pool_;
  MicrobatchInput batch_;

 public:
  std::optional<Linear> linear;
  std::optional<Tape> tape;
};

struct RowCodes {
  explicit RowCodes(int64_t width, int64_t tiles)
      : codes({kTokens, width}, DType::kE4M3), scales({kTokens, tiles}) {}
  operator QuantizedRows() const { return {codes, scales}; }  // NOLINT
  Tensor codes, scales;
};
struct ColumnCodes {
  explicit ColumnCodes(int64_t width)
      : codes({kTokens, width}, DType::kE4M3), scales({NumColumnTiles(kTokens, 1), width}) {}
  operator QuantizedColumns() const { return {codes, scales}; }  // NOLINT
  Tensor codes, scales;
};

// What the recipe says, op by op.
struct Expected {
  Expected(Layer& layer, const Tensor& x, const Tensor& dy, bool columns_from_bf16) {
    kernels::Stream& stream = layer.stream();
    const Tensor codes({1, kOut, kIn}, DType::kE4M3), scales({1, 2, 2});
    const Tensor codes_t({1, kIn, kOut}, DType::kE4M3), scales_t({1, 2, 2});
    const Tensor tiles = Tensor::Of({0, kOut / 2, kOut});
    const QuantizedWeight w{codes, scales, codes_t, scales_t, tiles};
    const kernels::QuantizeOptions &of_x = layer.options.activations,
                                   &of_dy = layer.options.gradients;
    kernels::QuantizeWeight(
        stream, {.w = layer.value().Reshape({1, kOut, kIn}), .weight = w, .options = of_x});
    const RowCodes x_rows(kIn, 2), dy_rows(kOut, 2);
    const ColumnCodes x_columns(kIn), dy_columns(kOut);
    kernels::Quantize(stream, {.x = x, .rows = x_rows, .options = of_x});
    kernels::Quantize(
        stream,
        {.x = dy, .rows = dy_rows, .columns = dy_columns, .tiles = tiles, .options = of_dy});
    if (columns_from_bf16) {
      kernels::Quantize(stream, {.x = x, .columns = x_columns, .options = of_x});
    } else {
      kernels::RequantizeColumns(stream, {.rows = x_rows, .columns = x_columns, .options = of_x});
    }
    kernels::Fp8Matmul(stream, {x_rows, w, Fp8Direction::kForward, {}, y});
    kernels::Fp8Matmul(stream, {dy_rows, w, Fp8Direction::kBackward, {}, dx});
    kernels::Fp8WeightGradient(stream,
                               {dy_columns, x_columns, {}, dw.view().Reshape({1, kOut, kIn})});
  }
  Tensor y{{kTokens, kOut}, DType::kBF16}, dx{{kTokens, kIn}, DType::kBF16}, dw{{kOut, kIn}};
};

void Spoil(const Tensor& t) {
  for (int64_t i = 0; i < t.num_elements(); ++i) t.SetAt(i, 1e4);
}

void ExpectGradient(Layer& layer, const Tensor& expected) {
  const Tensor found({kOut, kIn});
  layer.device().Copy(layer.gradient(), found, layer.stream());
  EXPECT_TRUE(Same(found, expected));
}

// x is quantised once, and dy in BackwardInput: after that nobody reads the BF16 values.
// Whatever the options say of either operand.
TEST(Fp8Linear, KeepsTheCodesOfItsOperandsAndNothingElse) {
  for (const int variant : {0, 1, 2}) {
    Layer layer(Linear::Keeps::kInput);
    if (variant == 1) layer.options.activations.format = kernels::ScaleFormat::kPowerOfTwo;
    if (variant == 2) layer.options.gradients.square_blocks = true;
    layer.linear->Repack(layer.stream());
    const Tensor x = Tensor::Random({kTokens, kIn}, DType::kBF16, 2);
    const Tensor dy = Tensor::Random({kTokens, kOut}, DType::kBF16, 3);
    const Expected expected(layer, x, dy, /*columns_from_bf16=*/false);
    kernels::Fill(layer.stream(), layer.gradient(), 0);
    const Tensor y({kTokens, kOut}, DType::kBF16), dx({kTokens, kIn}, DType::kBF16);
    layer.linear->Forward(layer.context(), x, y);
    Spoil(x);
    layer.linear->BackwardInput(layer.context(), dy, dx);
    Spoil(dy);
    layer.linear->BackwardWeight(layer.context(), {}, {});
    EXPECT_TRUE(Same(y, expected.y)) << variant;
    EXPECT_TRUE(Same(dx, expected.dx)) << variant;
    ExpectGradient(layer, expected.dw);
  }
}

// The input of o_proj stays in BF16, and is quantised along the tokens from there.
TEST(Fp8Linear, AnInputThatTheCallerKeepsIsQuantisedFromBf16) {
  Layer layer(Linear::Keeps::kNothing);
  EXPECT_FALSE(layer.linear->keeps_input());
  const Tensor x = Tensor::Random({kTokens, kIn}, DType::kBF16, 2);
  const Tensor dy = Tensor::Random({kTokens, kOut}, DType::kBF16, 3);
  const Expected expected(layer, x, dy, /*columns_from_bf16=*/true);
  kernels::Fill(layer.stream(), layer.gradient(), 0);
  const Tensor y({kTokens, kOut}, DType::kBF16), dx({kTokens, kIn}, DType::kBF16);
  layer.linear->Forward(layer.context(), x, y);
  layer.linear->BackwardInput(layer.context(), dy, dx);
  Spoil(dy);
  layer.linear->BackwardWeight(layer.context(), {}, x);
  ExpectGradient(layer, expected.dw);
}

// Recomputing in backward reads the kept codes, whatever x is by then.
TEST(Fp8Linear, ASecondForwardUsesTheKeptCodes) {
  Layer layer(Linear::Keeps::kInput);
  const Tensor x = Tensor::Random({kTokens, kIn}, DType::kBF16, 2);
  const Tensor y({kTokens, kOut}, DType::kBF16), again({kTokens, kOut}, DType::kBF16);
  layer.linear->Forward(layer.context(), x, y);
  layer.linear->Forward(layer.context(), {}, again);
  EXPECT_TRUE(Same(again, y));
}

// Forward, both backwards; what the health report says of them.
Fp8LayerHealth HealthOf(Layer& layer, const Tensor& x, const Tensor& dy) {
  Fp8Health health;
  Context context = layer.context();
  context.health = &health;
  kernels::Fill(layer.stream(), layer.gradient(), 0);
  const Tensor y({kTokens, kOut}, DType::kBF16), dx({kTokens, kIn}, DType::kBF16);
  layer.linear->Forward(context, x, y);
  layer.linear->BackwardInput(context, dy, dx);
  layer.linear->BackwardWeight(context, {}, {});
  CHECK_EQ(health.layers().size(), 1u);
  return *health.layers()[0];
}

// Narrow enough that every column is in the sample: the error is that of the gradient, against the
// product of the BF16 operands.
TEST(Fp8Linear, TheReportedErrorOfTheWeightGradientIsThatOfTheGradient) {
  Layer layer(Linear::Keeps::kInput);
  const Tensor x = Tensor::Random({kTokens, kIn}, DType::kBF16, 2);
  const Tensor dy = Tensor::Random({kTokens, kOut}, DType::kBF16, 3);
  const Expected expected(layer, x, dy, /*columns_from_bf16=*/false);
  const Fp8LayerHealth health = HealthOf(layer, x, dy);
  ExpectGradient(layer, expected.dw);
  const Tensor in_bf16({kOut, kIn});
  kernels::Matmul(layer.stream(), {.a = dy, .b = x, .c = in_bf16, .transpose_a = true});
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < kOut * kIn; ++i) {
    difference += std::pow(expected.dw.At(i) - in_bf16.At(i), 2);
    norm += std::pow(in_bf16.At(i), 2);
  }
  EXPECT_DOUBLE_EQ(health.dw.difference, difference);
  EXPECT_DOUBLE_EQ(health.dw.norm, norm);
}

// A large token without a gradient sets the scales of all tokens in its tiles along the tokens,
// and the others' x is lost in the weight gradient; along its rows it is alone.
TEST(Fp8Linear, ATokenThatSpoilsTheWeightGradientShowsThereAlone) {
  Layer layer(Linear::Keeps::kInput);
  const Tensor x = Tensor::Random({kTokens, kIn}, DType::kBF16, 2);
  const Tensor dy = Tensor::Random({kTokens, kOut}, DType::kBF16, 3);
  constexpr int64_t kToken = 7;
  for (int64_t i = 0; i < kIn; ++i) x.SetAt(kToken * kIn + i, 1e6 * x.At(kToken * kIn + i));
  for (int64_t i = 0; i < kOut; ++i) dy.SetAt(kToken * kOut + i, 0);
  const Fp8LayerHealth health = HealthOf(layer, x, dy);
  EXPECT_LT(health.y.RelativeError(), 0.1);
  EXPECT_LT(health.dx.RelativeError(), 0.1);
  EXPECT_GT(health.dw.RelativeError(), 0.5);  // 127 of 150 tokens
  EXPECT_EQ(health.RelativeError(), health.dw.RelativeError());
}

TEST(Fp8Linear, DemotedItIsTheBf16Layer) {
  Layer layer(Linear::Keeps::kInput), plain(Linear::Keeps::kInput, /*fp8=*/false);
  const Tensor x = Tensor::Random({kTokens, kIn}, DType::kBF16, 2);
  const Tensor y({kTokens, kOut}, DType::kBF16), expected({kTokens, kOut}, DType::kBF16);
  plain.linear->Forward(plain.context(), x, expected);
  ASSERT_TRUE(layer.linear->Demote(layer.device()).ok());
  layer.linear->Forward(layer.context(), x, y);
  EXPECT_FALSE(layer.linear->fp8());
  EXPECT_TRUE(Same(y, expected));
}

// ---- a whole model

using Gradients = std::map<std::string, std::vector<float>>;

// `activations`: the bytes that the step came to hold of them.
Gradients GradientsOf(const RunConfig& config, double* loss, int64_t* activations = nullptr) {
  OneRank run(config);
  run.LoadRandomBatch(1);
  *loss = run.Train(0).loss;
  if (activations != nullptr) {
    *activations = run.device->memory().bytes(kernels::MemoryTag::kActivations);
  }
  Gradients gradients;
  run.ForEachPiece([&](const NamedPiece& piece, float* /*master*/, const float* gradient) {
    auto& to = gradients[piece.name];
    to.insert(to.end(), gradient, gradient + piece.count);
  });
  return gradients;
}

double Cosine(const Gradients& all_a, const Gradients& all_b) {
  double dot = 0, a2 = 0, b2 = 0;
  for (const auto& [name, a] : all_a) {
    const auto& b = all_b.at(name);
    CHECK_EQ(a.size(), b.size()) << name;
    for (size_t i = 0; i < a.size(); ++i) {
      dot += static_cast<double>(a[i]) * b[i];
      a2 += static_cast<double>(a[i]) * a[i];
      b2 += static_cast<double>(b[i]) * b[i];
    }
  }
  return dot / std::sqrt(a2 * b2);
}

// A code is off by a relative 2^-4 at most and 2^-4 / sqrt(3) in the mean, for each of two
// operands: a product differs from its BF16 twin by sqrt(2/3) 2^-4 of its norm. The longest path to
// a gradient is five products a layer (three of attention, two of the experts) of two layers,
// forward and backward. Their errors add up like random ones, and a turn by the angle t has the
// cosine 1 - t^2/2.
TEST(Fp8Model, GradientsPointWhereThoseOfBf16Do) {
  double loss_bf16 = 0, loss_fp8 = 0;
  const Gradients bf16 = GradientsOf(TinyFp8("BF16"), &loss_bf16);
  const Gradients fp8 = GradientsOf(TinyFp8("FP8"), &loss_fp8);
  EXPECT_NEAR(loss_fp8, loss_bf16, 0.01 * loss_bf16);
  EXPECT_NE(loss_fp8, loss_bf16);
  constexpr double kProducts = 2 * 5 * 2, kErrorSquared = 2.0 / 3 / 256;
  EXPECT_GT(Cosine(bf16, fp8), 1 - kProducts * kErrorSquared / 2);
}

TEST(Fp8Model, RecomputeChangesNoBitAndHoldsLess) {
  double kept = 0, recomputed = 0;
  int64_t bytes_kept = 0, bytes = 0;
  RunConfig config = TinyFp8("FP8");
  config.mutable_model()->set_num_hidden_layers(4);  // backward holds one of them expanded
  config.mutable_train()->set_sequence_length(64);
  const Gradients a = GradientsOf(config, &kept, &bytes_kept);
  for (const char* parts : {"norm", "mla_up", "swiglu", "norm,mla_up,swiglu"}) {
    config.mutable_compute()->set_recompute(parts);
    const Gradients b = GradientsOf(config, &recomputed, &bytes);
    EXPECT_EQ(kept, recomputed) << parts;
    EXPECT_EQ(a, b) << parts;
    EXPECT_LT(bytes, bytes_kept) << parts;
  }
}

// The input of o_proj comes back off by 2^-7 at most: forward reads it before that.
TEST(Fp8Model, TheE5m6CacheOfOProjMovesGradientsAndNoLoss) {
  for (const bool mla : {true, false}) {
    double plain = 0, cached = 0;
    RunConfig config = TinyFp8("FP8");
    if (!mla) {
      ModelConfig& m = *config.mutable_model();
      m.set_kv_lora_rank(0);
      m.set_num_attention_heads(3);
      m.set_num_key_value_heads(1);
      m.set_head_dim(16);
    }
    const Gradients a = GradientsOf(config, &plain);
    config.mutable_fp8()->set_o_proj_cache("E5M6");
    const Gradients b = GradientsOf(config, &cached);
    EXPECT_EQ(plain, cached);
    EXPECT_NE(a, b);
    EXPECT_GT(Cosine(a, b), 0.999);
    if (mla) {
      config.mutable_compute()->set_recompute("norm,mla_up,swiglu");
      EXPECT_EQ(b, GradientsOf(config, &cached));
    }
  }
}

// Gate and up come back with a relative error of 2^-4 at most, 2^-4 / sqrt(3) = 3.6% in the mean.
// Forward reads them before that. Of routed experts alone, and of a model without any.
TEST(Fp8Model, TheSwigluCacheMovesGradientsAndNoLoss) {
  for (const int experts : {4, 0}) {
    double plain = 0, cached = 0;
    RunConfig config = TinyFp8("FP8");
    config.mutable_model()->set_n_routed_experts(experts);
    config.mutable_model()->set_n_shared_experts(0);
    config.mutable_model()->set_first_k_dense_replace(0);
    const Gradients a = GradientsOf(config, &plain);
    config.mutable_fp8()->set_swiglu_cache(true);
    const Gradients b = GradientsOf(config, &cached);
    EXPECT_EQ(plain, cached);
    EXPECT_NE(a, b) << experts;
    EXPECT_GT(Cosine(a, b), 0.99) << experts;
  }
}

// Losses, routes, activations and their gradients do not depend on the layout. A weight gradient
// does a little: which tokens share a tile of 128 depends on which rows an expert receives at once.
// Then both operands are rounded twice apart: 4 errors of 2^-4 / sqrt(3) in the mean, 7% in norm.
TEST(Fp8Model, TheFirstStepIsTheSameInEveryLayout) {
  RunConfig config = SmallConfig("FP8");
  config.mutable_model()->set_q_lora_rank(32);
  config.mutable_model()->set_qk_rope_head_dim(16);
  const RunRecord one = RunLayout(config, {}, 1);
  const Layout layouts[] = {{.threads = 2},
                            {.data = 2},
                            {.data = 2, .expert = 2},
                            {.pipe = 2, .schedule = "zb_h1"},
                            {.pipe = 2, .data = 2, .expert = 2}};
  for (const Layout& layout : layouts) {
    EXPECT_THAT(CompareFirstStep(one, RunLayout(config, layout, 1), layout.expert > 1 ? 0.1 : 1e-5),
                IsEmpty())
        << layout.Name();
  }
}

// In BF16 as ever: the gate, the projection before an MTP module, the head.
TEST(Fp8Model, ConsistsOfTheLayersThatTheDocumentLists) {
  RunConfig config = TinyFp8("FP8");
  config.mutable_model()->set_num_nextn_predict_layers(1);
  OneRank run(config);
  std::vector<std::string> others;
  for (const Linear* linear : run.model->stages()[0]->linears()) {
    if (!linear->fp8()) others.push_back(linear->weight().pieces[0].name);
  }
  EXPECT_THAT(others, ::testing::UnorderedElementsAre(
                          "model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight",
                          "model.layers.2.eh_proj.weight", "lm_head.weight"));
}

// Once per optimizer step, and after each.
TEST(Fp8Model, UpdatesReachTheOperands) {
  OneRank run(TinyFp8("FP8"));
  run.LoadRandomBatch(1);
  const double before = run.Evaluate().loss;
  run.Train(0.01);
  const double after = run.Evaluate().loss;
  run.Publish();  // quantises all anew
  EXPECT_NE(after, before);
  EXPECT_EQ(run.Evaluate().loss, after);
}

TEST(Fp8Options, EveryFieldIsReadFromTheConfiguration) {
  RunConfig config = TinyFp8("FP8");
  Fp8Config& fp8 = *config.mutable_fp8();
  const auto options = [&] { return *MakeFp8Options(*Resolve(config, 1)); };
  EXPECT_EQ(options().activations.format, kernels::ScaleFormat::kF32);
  EXPECT_EQ(options().activations.amax_floor, 0);  // that is for inference only
  EXPECT_FALSE(options().gradients.square_blocks);
  EXPECT_FALSE(options().swiglu_cache || options().e5m6_attention);
  fp8.set_scales("UE8M0");
  fp8.set_gradient_tiles("128x128");
  EXPECT_EQ(options().activations.format, kernels::ScaleFormat::kPowerOfTwo);
  EXPECT_EQ(options().gradients.format, kernels::ScaleFormat::kPowerOfTwo);
  EXPECT_TRUE(options().gradients.square_blocks);
  EXPECT_FALSE(options().activations.square_blocks);
  fp8.set_swiglu_cache(true);
  EXPECT_TRUE(options().swiglu_cache && !options().e5m6_attention);
  fp8.set_o_proj_cache("E5M6");
  EXPECT_TRUE(options().e5m6_attention);
  config.mutable_compute()->set_precision("BF16");
  EXPECT_FALSE(MakeFp8Options(*Resolve(config, 1)).has_value());
}

TEST(Fp8Model, AWidthThatIsNoMultipleOf16IsRefusedByName) {
  RunConfig config = TinyFp8("FP8");
  config.mutable_model()->set_kv_lora_rank(24);
  const auto resolved = Resolve(config, 1);
  ASSERT_FALSE(resolved.ok());
  EXPECT_THAT(std::string(resolved.status().message()),
              HasSubstr("model.kv_lora_rank: found 24, wanted a multiple of 16"));
}

}  // namespace
}  // namespace sluice::trainer
