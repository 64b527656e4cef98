// DualPipe's pairs on the streams of CUDA devices: `sluice train` on ranks that have a software
// device each. That a forward's phases and a backward's may really run at once is read from the
// device's account of its operations: two that no stream, event or wait of the host orders.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "checkpoints/file_system.h"
#include "checkpoints/reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/newest_checkpoint.h"
#include "tests/cuda/training_text.h"
#include "tests/launch/json_rows.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kSteps = 2;
// Of six microbatches three go one way: each rank has three pairs a step, of two stages of one
// layer each.
constexpr int kPairs = 3 * kSteps;

// What the device says of an operation (CUDA_DOUBLE_ORDER).
struct StreamOp {
  size_t stream = 0;
  uint32_t index = 0;          // its place on the stream
  std::vector<uint32_t> seen;  // by stream, up to which place all is done before it
  std::string name;
};

bool ComesBefore(const StreamOp& a, const StreamOp& b) {
  return a.stream < b.seen.size() && b.seen[a.stream] >= a.index;
}
bool MayRunAtOnce(const StreamOp& a, const StreamOp& b) {
  return !ComesBefore(a, b) && !ComesBefore(b, a);
}

std::vector<StreamOp> ReadOps(const std::string& path) {
  std::ifstream file(path);
  std::vector<StreamOp> ops;
  for (std::string line; std::getline(file, line);) {
    StreamOp op;
    std::string seen, place;
    std::istringstream words(line);
    words >> op.stream >> op.index >> seen;
    std::getline(words, op.name);
    std::istringstream places(seen);
    while (std::getline(places, place, ',')) {
      op.seen.push_back(static_cast<uint32_t>(std::stoul(place)));
    }
    ops.push_back(op);
  }
  return ops;
}

// Operations whose name holds `name`.
std::vector<StreamOp> Named(const std::vector<StreamOp>& ops, const std::string& name) {
  std::vector<StreamOp> found;
  for (const StreamOp& op : ops) {
    if (op.name.find(name) != op.name.npos) found.push_back(op);
  }
  return found;
}

class CudaOverlap : public OnTrainingText {
 protected:
  // A small model, as only the order of its kernels matters. Not clipped, as the norm's shards are
  // cut where the layout says.
  void Train(const std::string& name, int ranks, int sequences, const std::string& layout,
             const std::string& environment = "") {
    std::filesystem::create_directory(OrderDir(name));
    const launch::Outcome outcome = launch::RunShell(
        "CUDA_DOUBLE_ORDER=" + OrderDir(name) + "/rank LD_LIBRARY_PATH=" SLUICE_CUDA_DOUBLE " " +
        environment + " " + testing::SourcePath("launch/run") + " -np " + std::to_string(ranks) +
        " " + SLUICE_BINARY + " train --preset tiny --set compute.threads=1" +
        " --set model.hidden_size=64 --set model.moe_intermediate_size=32" +
        " --set model.n_routed_experts=4 --set model.num_attention_heads=2" +
        " --set model.num_key_value_heads=2 --set train.sequence_length=16" +
        " --set train.global_batch=" + std::to_string(sequences) +
        " --set train.steps=" + std::to_string(kSteps) + " --set train.clip_norm=0" +
        " --set compute.device=cuda --set data.train=" + dir_ + "/train.txt" +
        " --set data.cache_dir=" + dir_ + "/cache --set run.dir=" + RunDir(name) + " " + layout);
    ASSERT_EQ(outcome.exit_code, 0) << name << ": " << outcome.err;
    EXPECT_THAT(outcome.err, Not(HasSubstr("cuda double:"))) << name;
  }
  std::string RunDir(const std::string& name) const { return dir_ + "/" + name; }
  std::string OrderDir(const std::string& name) const { return dir_ + "/order_" + name; }

  // A list a rank.
  std::vector<std::vector<StreamOp>> OpsOf(const std::string& name) const {
    std::vector<std::vector<StreamOp>> ranks;
    for (const auto& entry : std::filesystem::directory_iterator(OrderDir(name))) {
      ranks.push_back(ReadOps(entry.path()));
    }
    return ranks;
  }
  std::vector<std::string> Losses(const std::string& name) const {
    std::vector<std::string> losses;
    for (const auto& row : launch::JsonRows(RunDir(name) + "/metrics.jsonl")) {
      losses.push_back(row["loss_hex"]);
    }
    return losses;
  }

  // Losses of both steps, and in the end weights and both moments, which hold the gradients.
  void ExpectSameBits(const std::string& name, const std::string& other) {
    EXPECT_EQ(Losses(name), Losses(other)) << name << ", " << other;
    EXPECT_EQ(Losses(name).size(), static_cast<size_t>(kSteps));
    const auto files = checkpoints::CreatePosixFileSystem();
    auto a = checkpoints::CheckpointReader::Open(*files, NewestCheckpointOf(RunDir(name)));
    auto b = checkpoints::CheckpointReader::Open(*files, NewestCheckpointOf(RunDir(other)));
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    int tensors = 0;
    for (const auto& record : (*b)->tensors()) {
      if (record.dtype() != "f32") continue;
      const checkpoints::TensorRecord* found = (*a)->Find(record.name());
      ASSERT_NE(found, nullptr) << record.name();
      EXPECT_EQ(ReadWhole(**a, *found), ReadWhole(**b, record)) << record.name();
      ++tensors;
    }
    EXPECT_GT(tensors, 3 * 24);  // of experts alone
  }
};

// Which phases of a pair meet: figure 4 of the DeepSeek-V3 report. A forward and a backward that
// are the only ones of their kind on their way show by the names of their kernels: what combines
// while experts compute forward is the other half's dispatch, going back.
struct Meeting {
  const char *communicates, *computes;
};
constexpr Meeting kMeetings[] = {
    {"combine_rows_backward_kernel<", "::attention_kernel<"},      // combine B, attention F
    {"gather_rows_kernel<", "::swiglu_backward_kernel<"},          // dispatch F, experts B
    {"combine_rows_kernel<", "::swiglu_kernel<"},                  // dispatch B, experts F
    {"combine_rows_kernel<", "::attention_backward_key_kernel<"},  // combine F, attention B
};

// How many of `computing` may run beside one of `communicating`.
int Meetings(const std::vector<StreamOp>& communicating, const std::vector<StreamOp>& computing) {
  int count = 0;
  for (const StreamOp& computes : computing) {
    count += std::any_of(communicating.begin(), communicating.end(),
                         [&](const StreamOp& op) { return MayRunAtOnce(op, computes); });
  }
  return count;
}
void ExpectMeetings(const std::vector<StreamOp>& ops, int count) {
  for (const Meeting& meeting : kMeetings) {
    EXPECT_EQ(Meetings(Named(ops, meeting.communicates), Named(ops, meeting.computes)), count)
        << meeting.communicates << " beside " << meeting.computes;
  }
}

TEST_F(CudaOverlap, DualPipesPairsRunOnTwoStreamsAndHaveTheBitsOfTwoWayDataParallel1F1B) {
  const std::string dual = "--set mesh.pipe=2 --set schedule=dualpipe";
  Train("dual", 2, 6, dual);
  EXPECT_EQ(OpsOf("dual").size(), 2u);
  for (const auto& ops : OpsOf("dual")) ExpectMeetings(ops, kPairs);
  Train("dual_late", 2, 6, dual, "CUDA_DOUBLE_TIMING=late");
  ExpectSameBits("dual_late", "dual");
  Train("two_way", 4, 6, "--set mesh.pipe=2 --set mesh.data=2 --set schedule=1f1b");
  ExpectSameBits("dual", "two_way");
  EXPECT_EQ(OpsOf("two_way").size(), 4u);
  for (const auto& ops : OpsOf("two_way")) ExpectMeetings(ops, 0);  // it has no pairs
}

// Experts on two ranks: what crosses between them is on the stream of the exchange, beside what the
// other half computes. (A half's own messages come before or after all that it computes. Not in
// every pair: a phase waits for the other stream where it takes memory that was in use there.)
TEST_F(CudaOverlap, MessagesOfTheExchangeRunBesideTheOtherHalf) {
  const std::string layout =
      "--set mesh.pipe=2 --set mesh.data=2 --set mesh.expert=2 --set schedule=dualpipe";
  Train("nccl", 4, 2 * 4, layout);
  EXPECT_EQ(OpsOf("nccl").size(), 4u);
  for (const auto& ops : OpsOf("nccl")) {
    const auto combining = Named(ops, "combine_rows_kernel<");
    ASSERT_FALSE(combining.empty());
    std::vector<StreamOp> messages = Named(ops, "NCCL's rank");
    std::erase_if(messages, [&](const StreamOp& op) { return op.stream != combining[0].stream; });
    for (const Meeting& meeting : kMeetings) {
      EXPECT_GT(Meetings(messages, Named(ops, meeting.computes)), 0)
          << "messages beside " << meeting.computes;
    }
  }
  Train("host", 4, 2 * 4, layout + " --set compute.collectives=host");
  ExpectSameBits("nccl", "host");
}

}  // namespace
}  // namespace sluice
