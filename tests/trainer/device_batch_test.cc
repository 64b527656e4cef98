#include "trainer/loop/device_batch.h"

#include <gtest/gtest.h>

#include <fstream>

#include "nlohmann/json.hpp"
#include "tests/support/source_path.h"

namespace sluice::trainer {
namespace {

std::vector<int32_t> Values(const ConstTensorView& view) {
  return {view.data<int32_t>(), view.data<int32_t>() + view.num_elements()};
}

class DeviceBatchTest : public ::testing::Test {
 protected:
  DeviceBatchTest() : device_(*kernels::DeviceContext::Create({})) {}
  std::unique_ptr<kernels::DeviceContext> device_;
};

HostBatch OneSequence(std::vector<int32_t> tokens, std::vector<int32_t> starts = {}) {
  HostBatch batch;
  batch.num_targets = {static_cast<int64_t>(tokens.size()) - 1};
  batch.tokens = std::move(tokens);
  batch.document_starts = {std::move(starts)};
  return batch;
}

TEST_F(DeviceBatchTest, MtpShiftIsThePublishedOne) {
  std::ifstream file(testing::SourcePath("tests/golden/vectors/mtp_shift.json"));
  const nlohmann::json vector = nlohmann::json::parse(file);
  const std::vector<int32_t> sequence = vector["sequence"];
  DeviceBatch batch(*device_, {.sequence_length = 5, .microbatch = 1, .mtp_depth = 1});
  ASSERT_TRUE(batch.Load(OneSequence(sequence), 0).ok());
  const MicrobatchInput& input = batch.inputs()[0];
  EXPECT_EQ(Values(input.tokens), vector["main"]["input"].get<std::vector<int32_t>>());
  EXPECT_EQ(Values(input.targets), vector["main"]["target"].get<std::vector<int32_t>>());
  const std::vector<int32_t> embedded = vector["mtp1"]["embedded_tokens"],
                             target = vector["mtp1"]["target"];
  // The last position has no target; what it embeds does not matter.
  std::vector<int32_t> found = Values(input.mtp_tokens[0]);
  found.resize(4);
  EXPECT_EQ(found, embedded);
  found = Values(input.mtp_targets[0]);
  EXPECT_EQ(found[4], -1);
  found.resize(4);
  EXPECT_EQ(found, target);
  EXPECT_EQ(batch.num_targets(), 5);
  EXPECT_EQ(batch.num_mtp_targets(), 4);
}

TEST_F(DeviceBatchTest, DocumentsSeparateAttentionAndMtpTargets) {
  // Tokens 0..2 are one document, 3..5 the next.
  DeviceBatch batch(*device_,
                    {.sequence_length = 5, .microbatch = 1, .mtp_depth = 1, .document_mask = true});
  ASSERT_TRUE(batch.Load(OneSequence({10, 11, 12, 20, 21, 22}, {0, 3}), 0).ok());
  const MicrobatchInput& input = batch.inputs()[0];
  EXPECT_EQ(Values(input.starts), (std::vector<int32_t>{0, 3, 5}));
  EXPECT_EQ(Values(input.sequence_starts), (std::vector<int32_t>{0, 5}));
  // Position 0 predicts token 2, of its document; 1 and 2 would predict tokens of the next.
  EXPECT_EQ(Values(input.mtp_targets[0]), (std::vector<int32_t>{12, -1, -1, 22, -1}));
  EXPECT_EQ(batch.num_mtp_targets(), 2);
}

TEST_F(DeviceBatchTest, WithoutTheMaskDocumentsDoNotMatter) {
  DeviceBatch batch(*device_, {.sequence_length = 5, .microbatch = 1, .mtp_depth = 1});
  ASSERT_TRUE(batch.Load(OneSequence({10, 11, 12, 20, 21, 22}, {0, 3}), 0).ok());
  EXPECT_EQ(Values(batch.inputs()[0].starts), (std::vector<int32_t>{0, 5}));
}

TEST_F(DeviceBatchTest, MicrobatchesAreCutInOrderAndPaddingHasNoTarget) {
  HostBatch host;
  for (int32_t token = 0; token < 4 * 3; ++token) host.tokens.push_back(token);
  host.document_starts.resize(4);
  host.num_targets = {2, 2, 1, 0};
  DeviceBatch batch(*device_, {.sequence_length = 2, .microbatch = 2});
  ASSERT_TRUE(batch.Load(host, 6).ok());
  ASSERT_EQ(batch.inputs().size(), 2u);
  EXPECT_EQ(batch.inputs()[0].first_sequence, 6);
  EXPECT_EQ(batch.inputs()[1].first_sequence, 8);
  EXPECT_EQ(Values(batch.inputs()[0].tokens), (std::vector<int32_t>{0, 1, 3, 4}));
  EXPECT_EQ(Values(batch.inputs()[1].targets), (std::vector<int32_t>{7, -1, -1, -1}));
  EXPECT_EQ(Values(batch.inputs()[1].positions), (std::vector<int32_t>{0, 1, 0, 1}));
  EXPECT_EQ(batch.num_targets(), 5);
}

TEST_F(DeviceBatchTest, MaskedTokensAreReadAndAreNoTargets) {
  HostBatch host = OneSequence({10, 11, 12, 13, 14, 15});
  host.is_target = {0, 0, 1, 0, 1, 1};
  DeviceBatch batch(*device_, {.sequence_length = 5, .microbatch = 1, .mtp_depth = 1});
  ASSERT_TRUE(batch.Load(host, 0).ok());
  const MicrobatchInput& input = batch.inputs()[0];
  EXPECT_EQ(Values(input.tokens), (std::vector<int32_t>{10, 11, 12, 13, 14}));
  EXPECT_EQ(Values(input.targets), (std::vector<int32_t>{-1, 12, -1, 14, 15}));
  EXPECT_EQ(Values(input.mtp_targets[0]), (std::vector<int32_t>{12, -1, 14, 15, -1}));
  EXPECT_EQ(batch.num_targets(), 3);
  EXPECT_EQ(batch.num_mtp_targets(), 3);
}

}  // namespace
}  // namespace sluice::trainer
