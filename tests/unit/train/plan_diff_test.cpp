#include "runtime/train/plan_diff.h"

#include <gtest/gtest.h>

namespace sluice::train {
namespace {

TEST(PlanDiff, ShowsOnlyWhatDiffersUnderItsHeading) {
  EXPECT_EQ(line_diff("a: 1\ngroups:\n  x: 1\n  y: 2\nend\n", "a: 1\ngroups:\n  x: 1\n  y: 3\nend\n"),
            "  groups:\n-   y: 2\n+   y: 3\n");
  EXPECT_EQ(line_diff("same\n", "same\n"), "");
  EXPECT_EQ(line_diff("", "new\n"), "+ new\n");
  EXPECT_EQ(line_diff("old\n", ""), "- old\n");
}

}  // namespace
}  // namespace sluice::train
