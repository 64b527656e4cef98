// The same step in every layout: losses, routes, activations and activation gradients to the bit,
// weight gradients within a bound; and twenty steps that stay together. Planted bugs of the kinds
// that other systems shipped are caught by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/support/sanitized.h"
#include "tests/trainer/small_run.h"

namespace sluice::trainer {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const Layout kLayouts[] = {
    {.threads = 2},
    {.threads = 3},
    {.data = 2},
    {.data = 2, .expert = 2},
    {.pipe = 2},
    {.pipe = 2, .schedule = "gpipe"},
    {.pipe = 2, .schedule = "zb_h1"},
    {.pipe = 2, .schedule = "interleaved", .chunks = 2},
    {.pipe = 2, .data = 2, .expert = 2},
    {.pipe = 2, .data = 2, .expert = 2, .threads = 2},
    {.pipe = 4},
    {.pipe = 2, .schedule = "dualpipe"},
    {.pipe = 2, .schedule = "dualpipe_v", .chunks = 2},
    {.pipe = 2, .schedule = "dualpipe_v", .chunks = 2, .threaded_streams = true},
    {.pipe = 2, .data = 2, .expert = 2, .schedule = "dualpipe"},
    {.pipe = 2, .data = 2, .expert = 2, .schedule = "dualpipe_v", .chunks = 2},
    {.pipe = 4, .schedule = "dualpipe"},
    {.pipe = 4, .schedule = "dualpipe", .stage_layers = "0,2,2,0", .threaded_streams = true},
    {.pipe = 4, .data = 2, .expert = 2, .schedule = "dualpipe", .threaded_streams = true},
    {.pipe = 4, .schedule = "zb_h1", .stage_layers = "1,1,2,0"},
    {.data = 4, .expert = 2},
    {.pipe = 2, .data = 4, .expert = 2},
    {.pipe = 2, .data = 4, .expert = 4},
};

const RunRecord& OneRank(const std::string& precision) {
  static auto* records = new std::map<std::string, RunRecord>;
  if (records->find(precision) == records->end())
    (*records)[precision] = RunLayout(SmallConfig(precision), {}, 20);
  return (*records)[precision];
}

class LayoutParity : public ::testing::TestWithParam<std::tuple<const char*, Layout>> {};

// Tokens that a gate of the last step sent to other experts.
int DifferingRoutes(const RunRecord& a, const RunRecord& b) {
  EXPECT_EQ(a.last_routes.size(), b.last_routes.size());
  int differing = 0;
  for (const auto& [key, experts] : a.last_routes) {
    const auto other = b.last_routes.find(key);
    differing += other == b.last_routes.end() || other->second != experts ? 1 : 0;
  }
  return differing;
}

TEST_P(LayoutParity, FirstStepAgreesToTheBitAndTwentyStayTogether) {
  const auto& [precision, layout] = GetParam();
  const RunRecord& one = OneRank(precision);
  const RunRecord other = RunLayout(SmallConfig(precision), layout, 20);
  EXPECT_THAT(CompareFirstStep(one, other), IsEmpty());
  const double bound = std::string(precision) == "FP32" ? 1e-4 : 1e-3;
  const double a = one.steps.back().loss, b = other.steps.back().loss;
  EXPECT_LE(std::abs(a - b), bound * a) << a << " and " << b;
  RecordProperty("loss_difference", std::to_string(std::abs(a - b) / a));
  const size_t routes = one.last_routes.size();
  EXPECT_EQ(routes, size_t{4 * 32 * 17});  // gates, sequences, tokens
  std::printf("%s %s: loss after 20 steps differs by %.2e relative, %d of %zu routes differ\n",
              precision, layout.Name().c_str(), std::abs(a - b) / a, DifferingRoutes(one, other),
              routes);
}

INSTANTIATE_TEST_SUITE_P(Slow, LayoutParity,
                         ::testing::Combine(::testing::Values("FP32", "BF16"),
                                            ::testing::ValuesIn(kLayouts)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" +
                                  std::get<1>(info.param).Name();
                         });

TEST(LayoutParity, LossFallsInTwentySteps) {
  if (testing::kSanitized) GTEST_SKIP() << "the tests beside it run the same code";
  const RunRecord& one = OneRank("FP32");
  EXPECT_LT(one.steps.back().loss, one.steps.front().loss - 0.05);
  EXPECT_FALSE(one.steps.back().skipped);
}

TEST(LayoutParity, TheSameLayoutGivesTheSameBits) {
  const Layout layout{.pipe = 2, .data = 2, .expert = 2};
  const RunRecord a = RunLayout(SmallConfig("BF16"), layout, 3),
                  b = RunLayout(SmallConfig("BF16"), layout, 3);
  EXPECT_EQ(a.masters, b.masters);
  EXPECT_EQ(a.steps.back().grad_norm, b.steps.back().grad_norm);
}

TEST(LayoutParity, RecomputeChangesNoBitAndHoldsLess) {
  RunConfig config = SmallConfig("BF16");
  config.mutable_train()->set_microbatch(8);
  const RunRecord kept = RunLayout(config, {}, 2);
  for (const char* parts : {"norm", "mla_up", "swiglu", "norm,mla_up,swiglu"}) {
    config.mutable_compute()->set_recompute(parts);
    const RunRecord recomputed = RunLayout(config, {}, 2);
    EXPECT_EQ(recomputed.masters, kept.masters) << parts;
    EXPECT_LT(recomputed.memory[0].activations, kept.memory[0].activations) << parts;
  }
}

// Gradients are summed over microbatches, whatever their size: the same step, since losses are
// means over the tokens of the global batch and not means of means.
TEST(LayoutParity, MicrobatchesOfAnySizeGiveTheSameStep) {
  for (const char* precision : {"FP32", "BF16"}) {
    RunConfig config = SmallConfig(precision);
    config.mutable_train()->set_microbatch(1);
    const RunRecord one = RunLayout(config, {}, 1);
    for (const int size : {2, 8, 32}) {
      config.mutable_train()->set_microbatch(size);
      EXPECT_THAT(CompareFirstStep(one, RunLayout(config, {}, 1)), IsEmpty())
          << precision << " " << size;
    }
    config.mutable_train()->set_microbatch(4);
    EXPECT_THAT(CompareFirstStep(one, RunLayout(config, {.pipe = 2, .data = 2}, 1)), IsEmpty())
        << precision << " on four ranks";
  }
}

// transformers' load-balancing loss needs the load of all ranks, layers and microbatches before the
// first backward.
TEST(LayoutParity, LoadBalancingLossOverTheGlobalBatch) {
  RunConfig config = SmallConfig("FP32");
  config.mutable_model()->set_router_aux_loss_coef(0.05);
  const RunRecord one = RunLayout(config, {.schedule = "gpipe"}, 2);
  EXPECT_GT(one.steps[0].aux_loss, 0.05 * 2.5);  // about coefficient * K when balanced
  const Layout layouts[] = {{.data = 2, .expert = 2, .schedule = "gpipe"},
                            {.pipe = 2, .data = 2, .schedule = "gpipe"}};
  for (const Layout& layout : layouts) {
    EXPECT_THAT(CompareFirstStep(one, RunLayout(config, layout, 2)), IsEmpty()) << layout.Name();
  }
}

// The other attention, the other scores, a tied embedding with its copy on the last stage, and two
// depths of multi-token prediction.
TEST(LayoutParity, OtherModelsTakeTheSameFirstStep) {
  RunConfig tied = SmallConfig("FP32");
  tied.mutable_model()->set_tie_word_embeddings(true);
  tied.mutable_model()->set_num_nextn_predict_layers(2);
  RunConfig grouped = tied;
  ModelConfig& model = *grouped.mutable_model();
  for (auto clear : {&ModelConfig::clear_q_lora_rank, &ModelConfig::clear_kv_lora_rank,
                     &ModelConfig::clear_qk_nope_head_dim, &ModelConfig::clear_qk_rope_head_dim,
                     &ModelConfig::clear_v_head_dim, &ModelConfig::clear_n_group,
                     &ModelConfig::clear_topk_group}) {
    (model.*clear)();
  }
  model.set_num_key_value_heads(2);
  model.set_head_dim(16);
  model.set_scoring_func("softmax");
  model.set_topk_method("greedy");
  for (const RunConfig& config : {tied, grouped}) {
    const RunRecord one = RunLayout(config, {}, 1);
    const Layout layouts[] = {
        {.data = 2, .expert = 2}, {.pipe = 2}, {.pipe = 2, .data = 2, .expert = 2}};
    for (const Layout& layout : layouts) {
      EXPECT_THAT(CompareFirstStep(one, RunLayout(config, layout, 1)), IsEmpty())
          << layout.Name() << " of\n"
          << config.model().DebugString();
    }
  }
}

// Schedules that keep the order of weight gradients give equal bits.
TEST(LayoutParity, SchedulesOfOneStageCountGiveTheSameMasters) {
  const RunRecord base = RunLayout(SmallConfig("FP32"), {.pipe = 2, .schedule = "1f1b"}, 3);
  for (const char* schedule : {"gpipe", "zb_h1"}) {
    EXPECT_EQ(RunLayout(SmallConfig("FP32"), {.pipe = 2, .schedule = schedule}, 3).masters,
              base.masters)
        << schedule;
  }
  const Layout uneven = {.pipe = 2, .schedule = "zb_h1", .stage_layers = "4,0"};
  EXPECT_EQ(RunLayout(SmallConfig("FP32"), uneven, 3).masters, base.masters);
}

// DualPipe's replicas are two data ranks of 1F1B: the same halves of the batch, added in the same
// order. Without MTP and tied embeddings, because the two copies of a shared embedding add their
// terms in another order; without clipping, because the norm's shards are cut elsewhere.
TEST(LayoutParity, DualPipeIsTwoWayDataParallel1F1B) {
  for (const char* precision : {"FP32", "BF16"}) {
    RunConfig config = SmallConfig(precision);
    config.mutable_model()->set_num_nextn_predict_layers(0);
    config.mutable_train()->set_clip_norm(0);
    for (const int pipe : {2, 4}) {
      const RunRecord two_way = RunLayout(config, {.pipe = pipe, .data = 2}, 3);
      const RunRecord dual = RunLayout(config, {.pipe = pipe, .schedule = "dualpipe"}, 3);
      EXPECT_EQ(dual.gradients, two_way.gradients) << precision << " pipe " << pipe;
      EXPECT_EQ(dual.masters, two_way.masters) << precision << " pipe " << pipe;
      for (int step = 0; step < 3; ++step) {
        EXPECT_EQ(dual.steps[step].loss, two_way.steps[step].loss);
        EXPECT_NEAR(dual.steps[step].grad_norm, two_way.steps[step].grad_norm,
                    1e-12 * two_way.steps[step].grad_norm);
      }
    }
  }
}

// Phases of a forward and a backward on two streams that really run at once: the bits of streams
// that run in the caller. A forgotten wait shows here only if it changes a bit;
// tests/streams has what keeps the streams apart (the executor's events, the pool's) under
// ThreadSanitizer, which would take too long for the whole model.
TEST(OverlapOnStreams, ChangesNoBit) {
  RunConfig config = SmallConfig("FP32");
  config.mutable_train()->set_global_batch(16);
  for (const char* schedule : {"1f1b", "dualpipe", "dualpipe_v"}) {
    Layout layout = {.pipe = 2, .data = 2, .expert = 2, .schedule = schedule};
    layout.chunks = parallel::DefaultChunks(schedule);
    const RunRecord inline_run = RunLayout(config, layout, 2);
    layout.threaded_streams = true;
    const RunRecord threaded = RunLayout(config, layout, 2);
    EXPECT_EQ(threaded.masters, inline_run.masters) << schedule;
    EXPECT_EQ(threaded.steps.back().loss, inline_run.steps.back().loss) << schedule;
  }
}

// Stages that share a rank are those of as many ranks: one replica, microbatches in ascending
// order.
TEST(LayoutParity, VirtualStagesGiveTheBitsOfAsManyRanks) {
  RunConfig config = SmallConfig("FP32");
  config.mutable_model()->set_num_nextn_predict_layers(0);
  config.mutable_train()->set_clip_norm(0);
  const RunRecord ranks = RunLayout(config, {.pipe = 4, .schedule = "1f1b"}, 3);
  for (const char* schedule : {"interleaved", "dualpipe_v"}) {
    const RunRecord chunks = RunLayout(config, {.pipe = 2, .schedule = schedule, .chunks = 2}, 3);
    EXPECT_EQ(chunks.gradients, ranks.gradients) << schedule;
    EXPECT_EQ(chunks.masters, ranks.masters) << schedule;
    EXPECT_EQ(chunks.steps.back().loss, ranks.steps.back().loss) << schedule;
  }
}

// ---- planted bugs

// Passes everything on; a derived class breaks one call. Splits are wrapped as well.
class Broken : public parallel::Communicator {
 public:
  explicit Broken(std::unique_ptr<parallel::Communicator> base) : base_(std::move(base)) {}
  int rank() const override { return base_->rank(); }
  int size() const override { return base_->size(); }
  absl::Status AllReduce(TensorView data, parallel::ReduceOp op, Stream& stream) override {
    return base_->AllReduce(data, op, stream);
  }
  absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) override {
    return base_->AllGather(in, out, stream);
  }
  absl::Status ReduceScatter(ConstTensorView in, TensorView out, parallel::ReduceOp op,
                             Stream& stream) override {
    return base_->ReduceScatter(in, out, op, stream);
  }
  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send, TensorView out,
                        std::span<const int64_t> receive, Stream& stream) override {
    return base_->AllToAll(in, send, out, receive, stream);
  }
  absl::Status Broadcast(TensorView data, int root, Stream& stream) override {
    return base_->Broadcast(data, root, stream);
  }
  absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) override {
    return base_->Send(data, peer, tag, stream);
  }
  absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) override {
    return base_->Receive(data, peer, tag, stream);
  }
  absl::Status Barrier() override { return base_->Barrier(); }
  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    return base_->GatherBytes(bytes);
  }
  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    return base_->BroadcastBytes(bytes, root);
  }
  absl::StatusOr<std::unique_ptr<parallel::Communicator>> Split(int color, int key) override {
    auto split = base_->Split(color, key);
    ++splits_;
    if (!split.ok()) return split;
    return WrapSplit(splits_, *std::move(split));
  }
  void Abort(const absl::Status& why) override { base_->Abort(why); }

 protected:
  // The model splits pipe, data, expert, expert_data, in this order.
  virtual std::unique_ptr<parallel::Communicator> WrapSplit(
      int /*number*/, std::unique_ptr<parallel::Communicator> split) {
    return split;
  }
  std::unique_ptr<parallel::Communicator> base_;
  int splits_ = 0;
};

class DoublesReduceScatter : public Broken {
 public:
  using Broken::Broken;
  absl::Status ReduceScatter(ConstTensorView in, TensorView out, parallel::ReduceOp op,
                             Stream& stream) override {
    const absl::Status status = base_->ReduceScatter(in, out, op, stream);
    for (int64_t i = 0; i < out.num_elements(); ++i) out.mutable_data<float>()[i] *= 2;
    return status;
  }
};

// Megatron-style: expert gradients summed once too often.
class ExpertGradientsTwice : public Broken {
 public:
  using Broken::Broken;

 protected:
  std::unique_ptr<parallel::Communicator> WrapSplit(
      int number, std::unique_ptr<parallel::Communicator> split) override {
    if (number != 4) return split;
    return std::make_unique<DoublesReduceScatter>(std::move(split));
  }
};

// The norm forgets what every rank but the first adds.
class NormOfOneRank : public Broken {
 public:
  using Broken::Broken;
  absl::Status AllReduce(TensorView data, parallel::ReduceOp op, Stream& stream) override {
    const bool is_norm = data.dtype() == DType::kF64 && data.num_elements() == 1;
    if (is_norm && rank() != 0) *data.mutable_data<double>() = 0;
    return base_->AllReduce(data, op, stream);
  }
};

// Squares of the shards that a group reduced last.
class NotesSquares : public Broken {
 public:
  NotesSquares(std::unique_ptr<parallel::Communicator> base, std::shared_ptr<double> squares)
      : Broken(std::move(base)), squares_(std::move(squares)) {}
  absl::Status ReduceScatter(ConstTensorView in, TensorView out, parallel::ReduceOp op,
                             Stream& stream) override {
    const absl::Status status = base_->ReduceScatter(in, out, op, stream);
    for (int64_t i = 0; i < out.num_elements(); ++i) {
      *squares_ += std::pow(static_cast<double>(out.data<float>()[i]), 2);
    }
    return status;
  }

 private:
  std::shared_ptr<double> squares_;
};

// The norm counts the dense parameters only.
class NormWithoutExperts : public Broken {
 public:
  using Broken::Broken;
  absl::Status AllReduce(TensorView data, parallel::ReduceOp op, Stream& stream) override {
    if (data.dtype() == DType::kF64 && data.num_elements() == 1) {
      *data.mutable_data<double>() -= *squares_;
      *squares_ = 0;
    }
    return base_->AllReduce(data, op, stream);
  }

 protected:
  std::unique_ptr<parallel::Communicator> WrapSplit(
      int number, std::unique_ptr<parallel::Communicator> split) override {
    if (number != 4) return split;
    return std::make_unique<NotesSquares>(std::move(split), squares_);
  }

 private:
  std::shared_ptr<double> squares_ = std::make_shared<double>(0);
};

// Token counts that went through BF16.
class CountsInBf16 : public Broken {
 public:
  using Broken::Broken;
  absl::Status AllReduce(TensorView data, parallel::ReduceOp op, Stream& stream) override {
    const absl::Status status = base_->AllReduce(data, op, stream);
    if (data.dtype() != DType::kI64) return status;
    for (int64_t i = 0; i < data.num_elements(); ++i) {
      int64_t& count = data.mutable_data<int64_t>()[i];
      count =
          static_cast<int64_t>(kernels::ToFloat(kernels::ToBFloat16(static_cast<float>(count))));
    }
    return status;
  }

 protected:
  std::unique_ptr<parallel::Communicator> WrapSplit(
      int number, std::unique_ptr<parallel::Communicator> split) override {
    if (number != 2) return split;
    return std::make_unique<CountsInBf16>(std::move(split));
  }
};

template <typename Bug>
std::vector<std::string> WithBug(const RunConfig& config = SmallConfig("FP32")) {
  const auto plant =
      [](std::unique_ptr<parallel::Communicator> world) -> std::unique_ptr<parallel::Communicator> {
    return std::make_unique<Bug>(std::move(world));
  };
  return CompareFirstStep(RunLayout(config, {}, 1),
                          RunLayout(config, {.data = 4, .expert = 2}, 1, plant));
}

TEST(PlantedBug, DoubledExpertGradientsAreNamed) {
  EXPECT_THAT(
      WithBug<ExpertGradientsTwice>(),
      Contains(HasSubstr("gradient model.layers.1.mlp.experts.0.down_proj.weight: off by")));
}

TEST(PlantedBug, AMissingTermOfTheNormIsNamed) {
  for (const auto& found : {WithBug<NormOfOneRank>(), WithBug<NormWithoutExperts>()}) {
    ASSERT_EQ(found.size(), 1u);
    EXPECT_THAT(found[0], HasSubstr("grad_norm: 1 rank"));
  }
}

// 68 sequences of 17, 16 and 15 targets: a number of eleven bits, three more than BF16 has.
TEST(PlantedBug, CountsInBf16AreNamed) {
  RunConfig config = SmallConfig("FP32");
  config.mutable_train()->set_global_batch(68);
  const auto found = WithBug<CountsInBf16>(config);
  EXPECT_THAT(found, Contains(HasSubstr("target count: 1 rank 1089, here 1088")));
  // 68 sequences of 17 tokens with 3 experts each: some 430 for each of 8.
  EXPECT_THAT(found, Contains(HasSubstr("load of layer 1, expert ")));
}

TEST(PlantedBug, NoneIsFoundWhereThereIsNone) { EXPECT_THAT(WithBug<Broken>(), IsEmpty()); }

}  // namespace
}  // namespace sluice::trainer
