// metrics.jsonl of a run that died and goes on from its last checkpoint.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/data/data_test_util.h"
#include "trainer/loop/step_line.h"

namespace sluice::trainer {
namespace {

class MetricsFileTest : public ::testing::Test {
 protected:
  // What the file holds after it was opened for a run at `step` and one more row was appended.
  std::string After(const std::string& before, int64_t step) {
    dir_.Write("metrics.jsonl", before);
    auto file = MetricsFile::Open(path_, step);
    EXPECT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE(file->Append("{\"step\":99}").ok());
    return data::Slurp(path_);
  }
  const data::TempDir dir_;
  const std::string path_ = dir_.File("metrics.jsonl");
};

TEST_F(MetricsFileTest, ANewRunStartsAnEmptyFile) {
  auto file = MetricsFile::Open(path_, 0);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(std::filesystem::exists(path_));
  ASSERT_TRUE(file->Append("{\"step\":1}").ok());
  ASSERT_TRUE(file->Append("{\"step\":2}").ok());
  EXPECT_EQ(data::Slurp(path_), "{\"step\":1}\n{\"step\":2}\n");
}

TEST_F(MetricsFileTest, RowsPastTheRestoredStepAreDropped) {
  EXPECT_EQ(After("{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n", 2),
            "{\"step\":1}\n{\"step\":2}\n{\"step\":99}\n");
  EXPECT_EQ(After("{\"step\":1}\n{\"step\":2}\n", 0), "{\"step\":99}\n");
  EXPECT_FALSE(std::filesystem::exists(path_ + ".new"));
}

TEST_F(MetricsFileTest, RowsUpToTheRestoredStepStayAsTheyAre) {
  const std::string rows = "{\"step\": 1, \"loss\": 2.50}\n{\"loss\":null,\"step\":2}\n";
  EXPECT_EQ(After(rows, 2), rows + "{\"step\":99}\n");
  EXPECT_EQ(After(rows, 7), rows + "{\"step\":99}\n");
}

TEST_F(MetricsFileTest, ATornLastRowIsDropped) {
  EXPECT_EQ(After("{\"step\":1}\n{\"step\":2,\"los", 5), "{\"step\":1}\n{\"step\":99}\n");
  EXPECT_EQ(After("{\"step\":1}\n\xff\xfe{", 5), "{\"step\":1}\n{\"step\":99}\n");
}

// The process died between the row and its newline.
TEST_F(MetricsFileTest, AWholeLastRowWithoutItsNewlineKeepsItsOwnLine) {
  EXPECT_EQ(After("{\"step\":1}\n{\"step\":2}", 5), "{\"step\":1}\n{\"step\":2}\n{\"step\":99}\n");
}

TEST_F(MetricsFileTest, AFolderThatIsNotThereIsAnErrorThatNamesTheFile) {
  auto file = MetricsFile::Open(dir_.File("absent/metrics.jsonl"), 0);
  ASSERT_TRUE(file.ok());
  const absl::Status status = file->Append("{}");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("absent/metrics.jsonl"));
}

}  // namespace
}  // namespace sluice::trainer
