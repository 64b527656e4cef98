#include "trainer/loop/gate_statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace sluice::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(ChooseExperts, TakesTheFewestThatReachTheFraction) {
  const std::vector<double> share = {0.1, 0.3, 0.25, 0.05, 0.3};
  EXPECT_THAT(ChooseExperts(share, 0.2), ElementsAre(1));  // of equal shares the lower number
  EXPECT_THAT(ChooseExperts(share, 0.3), ElementsAre(1));
  EXPECT_THAT(ChooseExperts(share, 0.31), ElementsAre(1, 4));
  EXPECT_THAT(ChooseExperts(share, 0.8), ElementsAre(1, 2, 4));
  EXPECT_THAT(ChooseExperts(share, 1), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(ChooseExperts({0, 1, 0}, 1), ElementsAre(1)) << "an unused expert is not trained";
  EXPECT_THAT(ChooseExperts({0, 0}, 0.5), IsEmpty());
}

GateUse Use() {
  GateUse use;
  use.layer = 3;
  use.tokens = 10;
  use.chosen = {10, 6, 4, 0};
  use.weight = {1, 6, 3, 0};
  return use;
}

TEST(GateUse, SharesAddUpToOneEach) {
  EXPECT_THAT(Use().GateShare(), ElementsAre(0.1, 0.6, 0.3, 0));
  EXPECT_THAT(Use().TokenShare(), ElementsAre(0.5, 0.3, 0.2, 0));
  EXPECT_THAT(ChooseExperts({Use()}, ExpertScore::kGate, 0.5)[0].experts(), ElementsAre(1));
  EXPECT_THAT(ChooseExperts({Use()}, ExpertScore::kToken, 0.5)[0].experts(), ElementsAre(0));
}

TEST(ExpertsFile, ReadsWhatTheReportWrites) {
  const std::string path = ::testing::TempDir() + "experts_file_test.json";
  const auto chosen = ChooseExperts({Use()}, ExpertScore::kGate, 0.8);
  std::ofstream(path) << GateUseJson({Use()}, chosen);
  const auto read = ReadExpertsFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), 1u);
  EXPECT_EQ((*read)[0].layer(), 3);
  EXPECT_THAT((*read)[0].experts(), ElementsAre(1, 2));
  for (const char* bad : {"", "[]", "{\"layers\": [{\"layer\": 1}]}",
                          "{\"layers\": [{\"layer\": 1, \"experts\": [\"a\"]}]}"}) {
    std::ofstream(path, std::ios::trunc) << bad;
    EXPECT_THAT(std::string(ReadExpertsFile(path).status().message()),
                HasSubstr("finetune.experts_file " + path + ": found "))
        << bad;
  }
  EXPECT_THAT(std::string(ReadExpertsFile("/nowhere/x").status().message()),
              HasSubstr("found no file /nowhere/x"));
}

}  // namespace
}  // namespace sluice::trainer
