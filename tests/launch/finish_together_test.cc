#include "launch/finish_together.h"

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "parallel/comm/communicator.h"

namespace sluice::launch {
namespace {

using std::chrono::milliseconds;

// Every rank in a thread of its own: its result of `body`.
std::vector<absl::Status> OnRanks(
    int num_ranks, const std::function<absl::Status(parallel::Communicator& world,
                                                    parallel::Communicator& ending)>& body) {
  auto worlds = parallel::CreateThreadCommunicators(num_ranks);
  std::vector<absl::Status> results(num_ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      auto ending = worlds[rank]->Split(0, rank);
      ASSERT_TRUE(ending.ok()) << ending.status();
      results[rank] = body(*worlds[rank], **ending);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

constexpr milliseconds kForever(600'000);

TEST(FinishTogether, EachErrorIsPrintedOnceAndEachRankKeepsItsOwn) {
  ::testing::internal::CaptureStderr();
  const auto results = OnRanks(4, [](auto& world, auto& ending) {
    const std::string what = world.rank() == 3 ? "disk full" : "no such file";
    return FinishTogether(world.rank() == 1 ? absl::OkStatus() : absl::NotFoundError(what), ending,
                          kForever);
  });
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "sluice: no such file\nsluice: disk full\n");
  EXPECT_EQ(results[0].message(), "no such file");
  EXPECT_TRUE(results[1].ok());
  EXPECT_EQ(results[2].message(), "no such file");
  EXPECT_EQ(results[3].message(), "disk full");
}

TEST(FinishTogether, AllWellIsSilent) {
  ::testing::internal::CaptureStderr();
  for (const int ranks : {1, 3}) {
    for (const absl::Status& result : OnRanks(ranks, [](auto& /*world*/, auto& ending) {
           return FinishTogether(absl::OkStatus(), ending, kForever);
         })) {
      EXPECT_TRUE(result.ok()) << result;
    }
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(FinishTogether, ARankStuckInACallToTheFailedOneIsFreed) {
  ::testing::internal::CaptureStderr();
  const auto results = OnRanks(3, [](auto& world, auto& ending) {
    // Ranks 0 and 1 wait for rank 2 in a barrier it never enters.
    const absl::Status result =
        world.rank() == 2 ? absl::DataLossError("shard 7 is torn") : world.Barrier();
    return FinishTogether(result, ending, milliseconds(1));
  });
  ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(results[2].message(), "shard 7 is torn");
  EXPECT_FALSE(results[0].ok());
  EXPECT_FALSE(results[1].ok());
}

}  // namespace
}  // namespace sluice::launch
