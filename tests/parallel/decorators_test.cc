#include "parallel/comm/decorators.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

#include "tests/support/communicator_checks.h"
#include "tests/support/thread_ranks.h"

namespace sluice::testing {
namespace {

using kernels::CpuStreamMode;
using kernels::StreamRole;
using parallel::CallLog;
using parallel::CreateFaultyCommunicator;
using parallel::CreateSelfCommunicator;
using parallel::CreateTracingCommunicator;
using ::testing::ElementsAre;

struct OneStream {
  kernels::ThreadPool pool{1};
  kernels::CpuStream stream{CpuStreamMode::kInline, pool};
};

TEST(TracingCommunicator, WritesDownEveryCallInOrder) {
  OneStream cpu;
  CallLog log;
  auto group = CreateTracingCommunicator(CreateSelfCommunicator(), log);
  std::vector<float> a(6), b(6);
  std::vector<int32_t> c(3);
  const std::array<int64_t, 1> rows = {3};
  ASSERT_TRUE(group->AllReduce(ViewOf(a).Reshape({2, 3}), ReduceOp::kMax, cpu.stream).ok());
  ASSERT_TRUE(group->AllGather(ViewOf(a), ViewOf(b), cpu.stream).ok());
  ASSERT_TRUE(group->ReduceScatter(ViewOf(a), ViewOf(b), ReduceOp::kSum, cpu.stream).ok());
  ASSERT_TRUE(group->AllToAll(RowsOf(a, 2), rows, RowsOf(b, 2), rows, cpu.stream).ok());
  ASSERT_TRUE(group->Broadcast(ViewOf(c), 0, cpu.stream).ok());
  ASSERT_TRUE(group->Send(ViewOf(c), 0, 7, cpu.stream).ok());
  ASSERT_TRUE(group->Receive(ViewOf(c), 0, 7, cpu.stream).ok());
  ASSERT_TRUE(group->Barrier().ok());
  ASSERT_TRUE(group->GatherBytes("four").ok());
  ASSERT_TRUE(group->BroadcastBytes("ab", 0).ok());
  auto part = group->Split(4, -1);
  ASSERT_TRUE(part.ok());
  ASSERT_TRUE((*part)->Barrier().ok());
  ASSERT_TRUE((*part)->Split(0, 0).value()->Barrier().ok());
  EXPECT_THAT(log.lines(),
              ElementsAre("all_reduce max f32 [2, 3]", "all_gather f32 [6] -> [6]",
                          "reduce_scatter sum f32 [6] -> [6]",
                          "all_to_all f32 [3, 2] 3 -> [3, 2] 3", "broadcast i32 [3] from 0",
                          "send i32 [3] to 0 tag 7", "receive i32 [3] from 0 tag 7", "barrier",
                          "gather_bytes 4", "broadcast_bytes 2 from 0", "split color 4 key -1",
                          "g0 barrier", "g0 split color 0 key 0", "g0.0 barrier"));
}

// Decorators pass everything on: all properties hold through both of them.
TEST(Decorators, KeepEveryProperty) {
  auto groups = parallel::CreateThreadCommunicators(3);
  std::vector<std::thread> threads;
  for (auto& group : groups) {
    threads.emplace_back([inner = std::move(group)]() mutable {
      OneStream cpu;
      CallLog log;
      auto outer = CreateTracingCommunicator(CreateFaultyCommunicator(std::move(inner), {}), log);
      CheckCommunicator(*outer, cpu.stream);
      EXPECT_FALSE(log.lines().empty());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(FaultyCommunicator, FailsOneCallAndGoesOn) {
  auto group = CreateFaultyCommunicator(CreateSelfCommunicator(), {.fail_at = 2});
  auto part = group->Split(0, 0);  // call 0
  ASSERT_TRUE(part.ok());
  EXPECT_TRUE(group->Barrier().ok());
  EXPECT_EQ((*part)->Barrier().code(), absl::StatusCode::kInternal);  // counted together
  EXPECT_TRUE(group->Barrier().ok());
}

// Whatever call a rank dies at, nobody stays stuck and nobody believes all went well.
TEST(FaultyCommunicator, DeathOfARankFreesItsPeers) {
  for (int64_t die_at = 0; die_at < 5; ++die_at) {
    auto groups = parallel::CreateThreadCommunicators(4);
    groups[2] = CreateFaultyCommunicator(std::move(groups[2]), {.die_at = die_at});
    std::vector<std::thread> threads;
    std::array<absl::Status, 4> last;
    for (int p = 0; p < 4; ++p) {
      threads.emplace_back([&, p] {
        OneStream cpu;
        std::vector<float> data(1000, 1.0f);
        for (int call = 0; call < 5 && last[p].ok(); ++call) {
          last[p] = groups[p]->AllReduce(ViewOf(data), ReduceOp::kSum, cpu.stream);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (int p = 0; p < 4; ++p) {
      EXPECT_EQ(last[p].code(), absl::StatusCode::kUnavailable) << "rank " << p;
    }
  }
}

TEST(FaultyCommunicator, DelayChangesNothing) {
  auto group = CreateFaultyCommunicator(CreateSelfCommunicator(),
                                        {.delay_at = 0, .delay = std::chrono::microseconds(1)});
  EXPECT_TRUE(group->Barrier().ok());
}

}  // namespace
}  // namespace sluice::testing
