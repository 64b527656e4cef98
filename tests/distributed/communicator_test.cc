// The MPI communicator, under mpirun with any number of ranks up to 8.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdlib>
#include <utility>

#include "kernels/core/thread_pool.h"
#include "tests/support/communicator_checks.h"
#include "tests/support/mpi_world.h"

namespace sluice::testing {
namespace {

struct CpuStreamForTest {
  kernels::ThreadPool pool{1};
  kernels::CpuStream stream{kernels::CpuStreamMode::kInline, pool};
};

class MpiCommunicator : public ::testing::Test, protected CpuStreamForTest {};

TEST_F(MpiCommunicator, AllReduceIsExact) {
  CheckAllReduceIsExact<float>(World(), stream);
  CheckAllReduceIsExact<double>(World(), stream);
  CheckAllReduceIsExact<int32_t>(World(), stream);
  CheckAllReduceIsExact<int64_t>(World(), stream);
}

TEST_F(MpiCommunicator, SumsAreInRankOrder) { CheckSumsAreInRankOrder(World(), stream); }

TEST_F(MpiCommunicator, AllGatherIsExact) {
  CheckAllGatherIsExact<float>(World(), stream);
  CheckAllGatherIsExact<uint8_t>(World(), stream);
  CheckAllGatherKeepsBytes(World(), stream);
}

TEST_F(MpiCommunicator, ReduceScatterIsExact) {
  CheckReduceScatterIsExact<float>(World(), stream);
  CheckReduceScatterIsExact<double>(World(), stream);
  CheckReduceScatterIsExact<int64_t>(World(), stream);
}

TEST_F(MpiCommunicator, AllToAllIsExact) {
  CheckAllToAllIsExact<float>(World(), stream);
  CheckAllToAllIsExact<int32_t>(World(), stream);
  CheckAllToAllToOneRank(World(), stream);
}

TEST_F(MpiCommunicator, BroadcastFromEachRoot) { CheckBroadcastFromEachRoot(World(), stream); }

TEST_F(MpiCommunicator, SendDoesNotWaitForItsReceiver) {
  CheckManySendsInFlight(World(), stream);
  CheckManySendsInFlight(World(), stream);  // now with recycled buffers
}

TEST_F(MpiCommunicator, BytesOfAnyLength) { CheckBytes(World()); }

TEST_F(MpiCommunicator, Split) { CheckSplit(World(), stream); }

TEST_F(MpiCommunicator, PartsOfASplitHaveEveryProperty) {
  auto half = World().Split(World().rank() % 2, 0);
  ASSERT_TRUE(half.ok());
  CheckCommunicator(**half, stream);
}

// Larger than the scratch of a reduction (1 MiB), with a remainder: the work is done in pieces.
TEST_F(MpiCommunicator, LargeReductionsAreDoneInPieces) {
  const int64_t n = (int64_t{3} << 20) / static_cast<int64_t>(sizeof(float)) + 13;
  std::vector<float> data = ValuesOf<float>(World().rank(), n, 7), want(n);
  for (int64_t i = 0; i < n; ++i) {
    want[i] = static_cast<float>(Reduced(World().size(), i, 7, ReduceOp::kSum));
  }
  ASSERT_TRUE(World().AllReduce(ViewOf(data), ReduceOp::kSum, stream).ok());
  EXPECT_EQ(FirstDifference(data, want), -1);
  const int64_t part = n / World().size() + 1, whole = part * World().size();
  std::vector<float> in = ValuesOf<float>(World().rank(), whole, 7), out(part);
  want.resize(part);
  for (int64_t i = 0; i < part; ++i) {
    want[i] =
        static_cast<float>(Reduced(World().size(), World().rank() * part + i, 7, ReduceOp::kSum));
  }
  ASSERT_TRUE(World().ReduceScatter(ViewOf(in), ViewOf(out), ReduceOp::kSum, stream).ok());
  EXPECT_EQ(FirstDifference(out, want), -1);
}

// A threaded stream still has work that writes the data when the collective is called.
TEST_F(MpiCommunicator, WaitsForEarlierWorkOfTheStream) {
  kernels::CpuStream threaded(kernels::CpuStreamMode::kThreaded, pool);
  std::vector<int64_t> data(1000, 0);
  for (int64_t round = 1; round <= 20; ++round) {
    threaded.Run([&](kernels::ThreadPool&) { std::fill(data.begin(), data.end(), round); });
    ASSERT_TRUE(World().AllReduce(ViewOf(data), ReduceOp::kSum, threaded).ok());
    ASSERT_EQ(data, std::vector<int64_t>(1000, round * World().size()));
  }
}

TEST(MpiSession, KnowsTheRanksOfThisHost) {
  EXPECT_GE(Session().ranks_on_host(), 1);
  EXPECT_LE(Session().ranks_on_host(), World().size());
  EXPECT_LT(Session().rank_on_host(), Session().ranks_on_host());
}

// On one host messages go through shared memory, by ob1. (MPI_Init has read these.)
TEST(MpiSession, ChoosesSharedMemoryOnOneHost) {
  if (Session().ranks_on_host() != World().size()) GTEST_SKIP() << "several hosts";
  if (TransportWasChosen()) GTEST_SKIP() << "OMPI_MCA_pml or OMPI_MCA_btl was set before";
  for (const auto& [name, value] :
       {std::pair("OMPI_MCA_pml", "ob1"), std::pair("OMPI_MCA_btl", "self,vader")}) {
    EXPECT_STREQ(std::getenv(name), value) << name;
  }
  EXPECT_NE(std::getenv("OMPI_MCA_mpi_yield_when_idle"), nullptr);
}

// How often this process has left its core of its own will.
int64_t VoluntarySwitches() {
  rusage usage = {};
  EXPECT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  return usage.ru_nvcsw;
}

// Rank 0 works for a while before it sends. A round in which a rank was not even looking until the
// message was there shows nothing, so there are several.
TEST_F(MpiCommunicator, RanksThatShareCoresSleepWhileTheyWait) {
  if (!Session().shares_cores()) GTEST_SKIP() << "each rank has a core";
  int64_t slept = 0;
  for (int round = 0; round < 20; ++round) {
    double value = round;
    const TensorView data(&value, kernels::DType::kF64, {1});
    ASSERT_TRUE(World().Barrier().ok());
    if (World().rank() == 0) {
      const auto start = std::chrono::steady_clock::now();
      while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(2)) {
      }
      for (int p = 1; p < World().size(); ++p) {
        ASSERT_TRUE(World().Send(data, p, 0, stream).ok());
      }
    } else {
      const int64_t before = VoluntarySwitches();
      ASSERT_TRUE(World().Receive(data, 0, 0, stream).ok());
      slept += VoluntarySwitches() > before;
    }
    EXPECT_EQ(value, round);
  }
  if (World().rank() > 0) {
    EXPECT_GT(slept, 0);
  }
}

// (launch/run binds no rank to cores.)
TEST(MpiSession, RanksShareCoresWhereTheyAreMore) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  ASSERT_EQ(sched_getaffinity(0, sizeof(cores), &cores), 0);
  EXPECT_EQ(Session().shares_cores(), Session().ranks_on_host() > CPU_COUNT(&cores));
}

}  // namespace
}  // namespace sluice::testing
