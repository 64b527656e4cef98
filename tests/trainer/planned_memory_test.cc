// What the planner says of a rank's state, against the allocation table of that rank.
#include <gtest/gtest.h>

#include <string>

#include "kernels/core/memory_table.h"
#include "tests/trainer/one_rank.h"
#include "trainer/loop/planned_step.h"

namespace sluice::trainer {
namespace {

using kernels::MemoryTag;

struct Case {
  const char* name;
  const char* precision;
  bool latent;  // attention
  int mtp_depth;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// Widths are multiples of 64, so that no packed matrix has padding.
RunConfig WideConfig(const Case& c) {
  RunConfig config = TinyConfig();
  ModelConfig& m = *config.mutable_model();
  m.set_vocab_size(256);
  m.set_hidden_size(64);
  m.set_intermediate_size(192);
  m.set_moe_intermediate_size(64);
  m.set_num_hidden_layers(3);
  m.set_n_routed_experts(64);
  m.set_num_nextn_predict_layers(c.mtp_depth);
  m.set_qk_nope_head_dim(32);
  m.set_qk_rope_head_dim(64);
  m.set_v_head_dim(64);
  m.set_q_lora_rank(c.latent ? 64 : 0);
  m.set_kv_lora_rank(c.latent ? 64 : 0);
  if (!c.latent) {
    m.set_head_dim(64);
    m.set_num_key_value_heads(1);
  }
  config.mutable_train()->set_sequence_length(16);
  config.mutable_compute()->set_precision(c.precision);
  return config;
}

class PlannedMemory : public ::testing::TestWithParam<Case> {};

// Exactly, but for the alignment of parameters (32 elements each, and of the two flat groups) and
// the optimizer's sums of squares (a double a block of 4096 and one, of each group).
TEST_P(PlannedMemory, StateIsWhatARankAllocates) {
  const OneRank rank(WideConfig(GetParam()));
  const parallel::Cluster machine =
      TypicalMachine({.peak_flops = 1e11, .precision = GetParam().precision});
  auto planner = RunPlanner::Create(rank.config, machine, 1);
  ASSERT_TRUE(planner.ok()) << planner.status();
  const auto planned = planner->Plan(rank.config.train().global_batch(), 0);
  ASSERT_TRUE(planned.ok()) << planned.status();
  const kernels::MemoryTable& table = rank.device->memory();
  const double elements = planned->memory.gradients / 4;
  const double padding = 32.0 * (rank.model->store().parameters().size() + 2);
  const double value = GetParam().precision == std::string("FP32") ? 4 : 2;
  const auto expect = [&](MemoryTag tag, double bytes, double most) {
    const double has = static_cast<double>(table.bytes(tag));
    EXPECT_GE(has, bytes) << NameOf(tag);
    EXPECT_LE(has, bytes + most) << NameOf(tag);
  };
  expect(MemoryTag::kParameters, planned->memory.parameters, padding * value);
  expect(MemoryTag::kGradients, planned->memory.gradients, padding * 4);
  const double sums = 8 * (elements / 4096 + 4);
  expect(MemoryTag::kOptimizer, planned->memory.optimizer, padding * 12 + sums);
}

INSTANTIATE_TEST_SUITE_P(All, PlannedMemory,
                         ::testing::Values(Case{"LatentFp32", "FP32", true, 0},
                                           Case{"LatentBf16Mtp", "BF16", true, 1},
                                           Case{"GroupedBf16", "BF16", false, 0}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace sluice::trainer
