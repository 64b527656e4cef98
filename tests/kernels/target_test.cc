// Choice of the SIMD target.
#include "kernels/cpu/target.h"

#include <gtest/gtest.h>

#include <set>

#include "kernels/cpu/op_table.h"

namespace sluice::kernels::cpu {
namespace {

TEST(Target, ScalarIsAlwaysThereAndTheFastestIsTheDefault) {
  const std::vector<Target> targets = AvailableTargets();
  ASSERT_FALSE(targets.empty());
  EXPECT_EQ(targets.front(), Target::kScalar);
  EXPECT_EQ(CurrentTarget(), targets.back());
}

TEST(Target, SelectingOneSwitchesTheTable) {
  const Target before = CurrentTarget();
  std::set<void (*)(const MatmulBlock&, uint32_t*)> loops;
  std::set<absl::string_view> names;
  for (Target target : AvailableTargets()) {
    SelectTarget(target);
    EXPECT_EQ(CurrentTarget(), target);
    loops.insert(Table().matmul.multiply);
    names.insert(TargetName());
  }
  SelectTarget(before);
  EXPECT_EQ(loops.size(), AvailableTargets().size());
  EXPECT_EQ(names.size(), AvailableTargets().size());
}

}  // namespace
}  // namespace sluice::kernels::cpu
