#include "launch/machine.h"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/bundled_text.h"
#include "launch/stop_signal.h"
#include "tests/launch/run_program.h"

namespace sluice::launch {
namespace {

using ::testing::EndsWith;

TEST(Machine, RanksTimesThreadsNeverExceedsTheCores) {
  EXPECT_EQ(ThreadsPerRank(1), UsableCores());
  EXPECT_EQ(ThreadsPerRank(1'000'000), 1) << "but a rank needs one";
  for (int ranks = 1; ranks <= UsableCores(); ++ranks) {
    EXPECT_EQ(ThreadsPerRank(ranks), UsableCores() / ranks);
  }
}

TEST(Machine, FreeMemoryIsPartOfTheWhole) {
  const MemorySize memory = ReadMemorySize();
  EXPECT_GT(memory.total_bytes, 0);
  EXPECT_GT(memory.available_bytes, 0);
  EXPECT_LE(memory.available_bytes, memory.total_bytes);
}

TEST(Machine, AContainersLimitCountsButNotWhatItKeepsOfFiles) {
  const std::string root = TestFolder();
  std::filesystem::create_directories(root + "/proc");
  std::filesystem::create_directories(root + "/sys/fs/cgroup");
  const auto write = [&](const std::string& path, const std::string& text) {
    std::ofstream(root + path) << text;
  };
  EXPECT_EQ(ReadMemorySize(root).total_bytes, 0);
  write("/proc/meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable:   700 kB\n");
  EXPECT_EQ(ReadMemorySize(root).available_bytes, 700 * 1024);
  write("/sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(ReadMemorySize(root).available_bytes, 700 * 1024);
  write("/sys/fs/cgroup/memory.max", "409600\n");
  write("/sys/fs/cgroup/memory.current", "389600\n");
  write("/sys/fs/cgroup/memory.stat",
        "anon 89600\nfile 300000\ninactive_file 200000\n"
        "active_file 90000\n");
  EXPECT_EQ(ReadMemorySize(root).total_bytes, 409600);
  EXPECT_EQ(ReadMemorySize(root).available_bytes, 409600 - 99600);
  std::filesystem::remove_all(root);
}

TEST(BundledText, FiveNovelsTrainAndOneIsHeldOut) {
  trainer::RunConfig config;
  config.mutable_data()->set_bundled_sample(true);
  ASSERT_TRUE(UseBundledText(config).ok());
  EXPECT_EQ(config.data().train_size(), 5);
  ASSERT_EQ(config.data().validation_size(), 1);
  EXPECT_THAT(config.data().validation(0).path(), EndsWith("/persuasion.txt"));
  for (const auto& source : config.data().train()) {
    EXPECT_NE(source.path(), config.data().validation(0).path());
  }
}

TEST(BundledText, AnOwnTextReplacesAllOfIt) {
  trainer::RunConfig config;
  config.mutable_data()->set_bundled_sample(true);
  config.mutable_data()->add_train()->set_path("mine.txt");
  ASSERT_TRUE(UseBundledText(config).ok());
  EXPECT_EQ(config.data().train_size(), 1);
  EXPECT_EQ(config.data().validation_size(), 0);
  EXPECT_FALSE(config.data().bundled_sample());
}

TEST(BundledText, IsNotUsedUnasked) {
  trainer::RunConfig config;
  ASSERT_TRUE(UseBundledText(config).ok());
  EXPECT_EQ(config.data().train_size(), 0);
}

// In a process of its own: what is caught cannot be let go.
TEST(StopSignalDeathTest, EachOfTheThreeAsksToStopAndEndsNothing) {
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    EXPECT_EXIT(
        {
          CatchStopSignals();
          const bool before = StopRequested();
          raise(signal);
          raise(signal);  // a second one changes nothing
          _exit(!before && StopRequested() ? 0 : 1);
        },
        ::testing::ExitedWithCode(0), "");
  }
}

}  // namespace
}  // namespace sluice::launch
