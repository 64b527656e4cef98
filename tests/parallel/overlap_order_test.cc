#include "parallel/pipeline/overlap_order.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace sluice::parallel {
namespace {

using kernels::StreamRole;

// "c" computes, "x" communicates.
std::vector<StreamRole> Roles(const std::string& text) {
  std::vector<StreamRole> roles;
  for (const char c : text) roles.push_back(c == 'c' ? StreamRole::kCompute : StreamRole::kComm);
  return roles;
}

std::string Order(const std::string& front, const std::string& back) {
  std::string text;
  const std::vector<StreamRole> front_roles = Roles(front), back_roles = Roles(back);
  for (const PhaseStep& step : OverlapOrder(front_roles, back_roles)) {
    text += step.kind == PhaseKind::kForward         ? "F"
            : step.kind == PhaseKind::kBackwardInput ? "I"
                                                     : "W";
    text += std::to_string(step.phase) + " ";
  }
  return text;
}

// attention | dispatch | experts | combine on both sides: DeepSeek-V3 report, figure 4.
TEST(OverlapOrder, OneExpertLayerOnEachSide) {
  EXPECT_EQ(Order("cxcx", "cxcx"), "I3 F0 F1 I2 I1 W3 W2 F2 F3 I0 W1 W0 ");
}

TEST(OverlapOrder, TwoLayersGoOnInStep) {
  EXPECT_EQ(Order("cxcxcxcx", "cxcxcxcx"),
            "I7 F0 F1 I6 I5 W7 W6 F2 F3 I4 I3 W5 W4 F4 F5 I2 I1 W3 W2 F6 F7 I0 W1 W0 ");
}

// A head at the end of the backward's stage shifts it; the halves find back to each other.
TEST(OverlapOrder, HalvesOutOfStepFallIntoStep) {
  EXPECT_EQ(Order("cxcx", "cxcxc"), "F0 F1 I4 I3 W4 F2 F3 I2 I1 W3 W2 I0 W1 W0 ");
}

TEST(OverlapOrder, ComputationAloneTakesTurns) {
  EXPECT_EQ(Order("cc", "cc"), "F0 I1 F1 I0 W1 W0 ");
}

TEST(OverlapOrder, OneHalfMayBeEmpty) {
  EXPECT_EQ(Order("cxc", ""), "F0 F1 F2 ");
  EXPECT_EQ(Order("", "cxcx"), "I3 I2 I1 W3 W2 I0 W1 W0 ");
  EXPECT_EQ(Order("", ""), "");
}

TEST(OverlapOrder, EveryPhaseComesOnceInItsPlace) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 500; ++trial) {
    std::string text[2];
    for (std::string& half : text) {
      half.resize(random() % 9);
      for (char& c : half) c = random() % 2 == 0 ? 'c' : 'x';
    }
    const std::vector<StreamRole> front = Roles(text[0]), back = Roles(text[1]);
    int forward = 0, input = static_cast<int>(back.size()) - 1, weight = input;
    int computed = static_cast<int>(back.size());
    for (const PhaseStep& step : OverlapOrder(front, back)) {
      switch (step.kind) {
        case PhaseKind::kForward:
          ASSERT_EQ(step.phase, forward++);
          break;
        case PhaseKind::kBackwardInput:
          ASSERT_EQ(step.phase, input--);
          if (back[step.phase] == StreamRole::kCompute) computed = step.phase;
          break;
        case PhaseKind::kBackwardWeight:
          ASSERT_EQ(step.phase, weight--);
          ASSERT_TRUE(computed <= step.phase || input < 0) << text[0] << " " << text[1];
          break;
      }
    }
    ASSERT_EQ(forward, static_cast<int>(front.size()));
    ASSERT_EQ(input, -1);
    ASSERT_EQ(weight, -1);
  }
}

}  // namespace
}  // namespace sluice::parallel
