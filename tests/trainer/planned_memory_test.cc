// What the planner says of a rank's memory, against the allocation table of that rank.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu_stream.h"
#include "kernels/core/device.h"
#include "kernels/core/memory_table.h"
#include "parallel/comm/decorators.h"
#include "tests/support/sanitized.h"
#include "tests/trainer/one_rank.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/planned_step.h"
#include "trainer/loop/rehearsal.h"

namespace sluice::trainer {
namespace {

using kernels::MemoryTag;
using parallel::MemoryUse;

struct Case {
  const char* name;
  const char* precision;
  bool latent;  // attention
  int mtp_depth;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// Widths are multiples of 64 (of 128 with FP8), so that no packed matrix has padding and no tile a
// rest.
RunConfig WideConfig(const Case& c) {
  RunConfig config = TinyConfig();
  ModelConfig& m = *config.mutable_model();
  const int unit = c.precision == std::string("FP8") ? 128 : 64;
  m.set_vocab_size(256);
  m.set_hidden_size(unit);
  m.set_intermediate_size(3 * unit);
  m.set_moe_intermediate_size(unit);
  m.set_num_hidden_layers(3);
  m.set_n_routed_experts(64);
  m.set_num_nextn_predict_layers(c.mtp_depth);
  m.set_qk_nope_head_dim(unit / 2);
  m.set_qk_rope_head_dim(unit);
  m.set_v_head_dim(unit);
  m.set_q_lora_rank(c.latent ? unit : 0);
  m.set_kv_lora_rank(c.latent ? unit : 0);
  if (!c.latent) {
    m.set_head_dim(unit);
    m.set_num_key_value_heads(1);
  }
  config.mutable_train()->set_sequence_length(16);
  config.mutable_compute()->set_precision(c.precision);
  return config;
}

class PlannedMemory : public ::testing::TestWithParam<Case> {};

void ExpectTable(const MemoryUse& use, const MemoryUse& has) {
  EXPECT_EQ(use.parameters, has.parameters);
  EXPECT_EQ(use.gradients, has.gradients);
  EXPECT_EQ(use.optimizer, has.optimizer);
  EXPECT_EQ(use.activations, has.activations);
  EXPECT_EQ(use.communication, has.communication);
  EXPECT_EQ(use.scratch, has.scratch);
}

absl::StatusOr<PlannedStep> PlanOf(const RunConfig& config, int cores) {
  parallel::Cluster machine =
      TypicalMachine({.peak_flops = 1e11, .precision = config.compute().precision()});
  machine.cores_per_node = cores;
  auto planner = RunPlanner::Create(config, machine, 1, 1);
  if (!planner.ok()) return planner.status();
  return planner->Plan(config.train().global_batch(), 0);
}

// What parallel/plan counts for a search: exactly, but for the alignment of parameters (32 elements
// each, and of the two flat groups), that of FP8 copies (64 bytes) with the places of their tiles,
// and the optimizer's sums of squares (a double a block of 4096 and one, of each group).
TEST_P(PlannedMemory, StateIsWhatARankAllocates) {
  const OneRank rank(WideConfig(GetParam()));
  const auto planned = PlanOf(rank.config, /*cores=*/0);
  ASSERT_TRUE(planned.ok()) << planned.status();
  const kernels::MemoryTable& table = rank.device->memory();
  const double elements = planned->memory.gradients / 4;
  const double parameters = static_cast<double>(rank.model->store().parameters().size());
  const double padding = 32.0 * (parameters + 2);
  const std::string precision = GetParam().precision;
  const double value = precision == "FP32" ? 4 : 2;
  // A place is four bytes; there are a few tiles a matrix of an expert.
  const double tiles = precision == "FP8" ? parameters * (128 + 4 * (64 * 8 + 1)) : 0;
  const auto expect = [&](MemoryTag tag, double bytes, double most) {
    const double has = static_cast<double>(table.bytes(tag));
    EXPECT_GE(has, bytes) << NameOf(tag);
    EXPECT_LE(has, bytes + most) << NameOf(tag);
  };
  expect(MemoryTag::kParameters, planned->memory.parameters, padding * value + tiles);
  expect(MemoryTag::kGradients, planned->memory.gradients, padding * 4);
  const double sums = 8 * (elements / 4096 + 4);
  expect(MemoryTag::kOptimizer, planned->memory.optimizer, padding * 12 + sums);
}

// What a run on the CPU is told: every kind, to the byte, after each of two steps and any number.
TEST_P(PlannedMemory, ARunsTableIsItsRehearsals) {
  OneRank rank(WideConfig(GetParam()));
  for (int step = 1; step <= 2; ++step) {
    rank.LoadRandomBatch(step);
    rank.Train(1e-3, step);
    const auto rehearsed =
        Rehearse(rank.config, {.sequences = rank.config.train().global_batch(), .steps = step});
    ASSERT_TRUE(rehearsed.ok()) << rehearsed.status();
    ExpectTable(*rehearsed, HeldBy(rank.device->memory()));
  }
  rank.LoadRandomBatch(3);
  rank.Train(1e-3, 3);
  const auto planned = PlanOf(rank.config, /*cores=*/2);
  ASSERT_TRUE(planned.ok()) << planned.status();
  ExpectTable(planned->memory, HeldBy(rank.device->memory()));
}

INSTANTIATE_TEST_SUITE_P(All, PlannedMemory,
                         ::testing::Values(Case{"LatentFp32", "FP32", true, 0},
                                           Case{"LatentBf16Mtp", "BF16", true, 1},
                                           Case{"GroupedBf16", "BF16", false, 0},
                                           Case{"LatentFp8Mtp", "FP8", true, 1},
                                           Case{"GroupedFp8", "FP8", false, 0}),
                         [](const auto& info) { return std::string(info.param.name); });

// What the comparisons above read on both sides.
TEST(HeldBy, EachKindIsItsTag) {
  kernels::MemoryTable table;
  for (int tag = 0; tag < kernels::kNumMemoryTags; ++tag)
    table.Add(static_cast<MemoryTag>(tag), int64_t{1} << tag);
  MemoryUse wanted;
  wanted.parameters = 1;
  wanted.gradients = 2;
  wanted.optimizer = 4;
  wanted.activations = 8;
  wanted.communication = 16;
  wanted.scratch = 32;
  ExpectTable(HeldBy(table), wanted);
}

TEST(SkippedStream, RunsNothing) {
  const auto device =
      kernels::DeviceContext::Create({.stream_mode = kernels::CpuStreamMode::kSkipped}).value();
  const auto buffer = device->Allocate(4, MemoryTag::kScratch).value();
  const TensorView there = buffer.View(DType::kI32, {1});
  int32_t one = 1;
  kernels::Stream& stream = device->stream(kernels::StreamRole::kComm);
  device->Copy(ConstTensorView(&one, DType::kI32, {1}), there, stream);
  EXPECT_EQ(stream.Synchronize(), absl::OkStatus());
  EXPECT_EQ(*there.data<int32_t>(), 0);
  // Nor is work kept for later.
  const auto held = std::make_shared<int>(1);
  kernels::CpuStream::From(stream).Run([held](kernels::ThreadPool&) {});
  EXPECT_EQ(held.use_count(), 1);
}

// Rows that the data of each exchange's dispatch brought: an exchange begins with counts.
std::vector<int64_t> ReceivedRows(const std::vector<std::string>& calls) {
  std::vector<int64_t> rows;
  bool counted = false;
  for (const std::string& call : calls) {
    if (!absl::StrContains(call, "all_to_all")) continue;
    if (counted) {
      const std::string shape = call.substr(call.find(" -> [") + 5);
      int64_t received = 0;
      CHECK(absl::SimpleAtoi(shape.substr(0, shape.find(',')), &received)) << call;
      rows.push_back(received);
    }
    counted = absl::StrContains(call, "all_to_all i32");
  }
  return rows;
}

// Experts on two ranks, so that rows are uneven and differ from step to step: given the rows that
// each exchange brought, every rank's table is its rehearsal's, in any schedule.
TEST(RehearsedMemory, RecordedRowsGiveTheTableOfEveryRank) {
  for (const std::string precision : {"FP32", "FP8"}) {
    if (testing::kSanitized && precision == "FP32") continue;
    for (const std::string schedule : {"1f1b", "zb_h1", "dualpipe"}) {
      SCOPED_TRACE(precision + " " + schedule);
      const Layout layout = {.pipe = 2, .data = 2, .expert = 2, .schedule = schedule};
      RunConfig small = SmallConfig(precision);
      small.mutable_model()->set_q_lora_rank(32);  // FP8 wants multiples of 16
      small.mutable_model()->set_qk_rope_head_dim(16);
      const RunConfig config = ConfigOn(small, layout);
      std::vector<parallel::CallLog> logs(layout.world());
      const auto trace = [&](std::unique_ptr<parallel::Communicator> world) {
        parallel::CallLog& log = logs[world->rank()];
        return parallel::CreateTracingCommunicator(std::move(world), log);
      };
      const RunRecord run = RunLayout(small, layout, 3, trace);
      for (int rank = 0; rank < layout.world(); ++rank) {
        Rehearsal rehearsal{.pipe_rank = rank / layout.data,
                            .data_rank = rank % layout.data,
                            .sequences = config.train().global_batch(),
                            .steps = 3};
        rehearsal.received = ReceivedRows(logs[rank].lines());
        ASSERT_FALSE(rehearsal.received.empty());
        const auto rehearsed = Rehearse(config, rehearsal);
        ASSERT_TRUE(rehearsed.ok()) << rehearsed.status();
        SCOPED_TRACE("rank " + std::to_string(rank));
        ExpectTable(*rehearsed, run.memory[rank]);
      }
    }
  }
}

}  // namespace
}  // namespace sluice::trainer
