// The described clusters: readable, each number with its source, what is shared is shared.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <sstream>
#include <string>
#include <vector>

#include "launch/plan_input.h"
#include "launch/presets.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;

TEST(Clusters, AllAreReadable) {
  for (const Preset& cluster : Clusters()) {
    const auto loaded = LoadCluster(cluster.name, 0);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->name, cluster.name);
  }
  EXPECT_EQ(LoadCluster("h100", 3)->nodes, 3);
  EXPECT_THAT(std::string(LoadCluster("h101", 0).status().message()), HasSubstr("h100"));
}

// `field: number`, or a link's several, before any comment.
bool HoldsANumber(const std::string& line) {
  const std::string code = line.substr(0, line.find('#'));
  for (size_t at = code.find(": "); at != std::string::npos; at = code.find(": ", at + 1)) {
    if (at + 2 < code.size() && std::isdigit(static_cast<unsigned char>(code[at + 2]))) return true;
  }
  return false;
}

bool IsComment(const std::string& line) {
  const size_t first = line.find_first_not_of(' ');
  return first != std::string::npos && line[first] == '#';
}

// The lines of `text` whose numbers say nowhere whence they come: no comment on the line, none
// right above.
std::vector<std::string> WithoutOrigin(const std::string& text) {
  std::vector<std::string> bare;
  std::istringstream lines(text);
  std::string previous;
  for (std::string line; std::getline(lines, line); previous = line) {
    if (HoldsANumber(line) && line.find('#') == std::string::npos && !IsComment(previous))
      bare.push_back(line);
  }
  return bare;
}

TEST(Clusters, EveryNumberHasItsOrigin) {
  EXPECT_EQ(WithoutOrigin("a: 1  # x\n# y\nb: 2\nc: 3\nname: \"n4\"\n"),
            (std::vector<std::string>{"c: 3"}));
  for (const Preset& cluster : Clusters())
    EXPECT_THAT(WithoutOrigin(cluster.text), ::testing::IsEmpty()) << cluster.name;
}

// What kernels reach was measured on H800 and is taken over for the chips of its family.
TEST(Clusters, HoppersShareWhatTheirKernelsReach) {
  const parallel::Device of = LoadCluster("h800_2048", 0)->device;
  for (const char* name : {"h100", "h200"}) {
    const parallel::Device other = LoadCluster(name, 0)->device;
    EXPECT_EQ(other.sustained_clock, of.sustained_clock) << name;
    EXPECT_EQ(other.product_efficiency, of.product_efficiency) << name;
    EXPECT_EQ(other.core_forward_efficiency, of.core_forward_efficiency) << name;
    EXPECT_EQ(other.core_backward_efficiency, of.core_backward_efficiency) << name;
    EXPECT_EQ(other.memory_efficiency, of.memory_efficiency) << name;
    EXPECT_EQ(other.op_seconds, of.op_seconds) << name;
    EXPECT_EQ(other.compute_factor_in_overlap, of.compute_factor_in_overlap) << name;
  }
}

}  // namespace
}  // namespace sluice::launch
