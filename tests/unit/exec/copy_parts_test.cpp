#include "runtime/exec/copy_parts.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>

namespace sluice::exec {
namespace {

using Parts = std::vector<std::pair<size_t, size_t>>;

class CopyPartsTest : public testing::Test {
 protected:
  Parts parts(size_t begin, size_t bytes) const {
    Parts all;
    parts_.for_parts(memory_.data() + begin, bytes,
                     [&](size_t offset, size_t count) { all.emplace_back(offset, count); });
    return all;
  }

  std::array<std::byte, 100> memory_{};
  CopyParts parts_;
};

TEST_F(CopyPartsTest, OfMemoryThatWasNeverPinnedIsOne) { EXPECT_EQ(parts(10, 50), (Parts{{0, 50}})); }

// Two pieces side by side, the rest could not be pinned.
TEST_F(CopyPartsTest, CrossNoBorderOfAPiece) {
  const std::span<std::byte> all = memory_;
  parts_.add(all.first(40));
  parts_.add(all.subspan(40, 40));
  EXPECT_EQ(parts(0, 40), (Parts{{0, 40}}));
  EXPECT_EQ(parts(40, 40), (Parts{{0, 40}}));
  EXPECT_EQ(parts(30, 20), (Parts{{0, 10}, {10, 10}}));
  EXPECT_EQ(parts(70, 30), (Parts{{0, 10}, {10, 20}}));
  EXPECT_EQ(parts(0, 100), (Parts{{0, 40}, {40, 40}, {80, 20}}));
  EXPECT_EQ(parts(85, 5), (Parts{{0, 5}}));
  EXPECT_TRUE(parts(50, 0).empty());
}

}  // namespace
}  // namespace sluice::exec
