#include "runtime/core/short_list.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace sluice {
namespace {

using Three = ShortList<int, 3>;

std::vector<int> values(const Three& list) { return {list.begin(), list.end()}; }
std::vector<int> counted(int end) {
  std::vector<int> all(static_cast<size_t>(end));
  std::iota(all.begin(), all.end(), 0);
  return all;
}
Three first(int count) {
  Three list;
  for (int i = 0; i < count; ++i) list.push_back(i);
  return list;
}

TEST(ShortList, HoldsAnyNumberOfElementsInOrder) {
  for (int count = 0; count < 20; ++count) {
    const Three list = first(count);
    EXPECT_EQ(values(list), counted(count));
    EXPECT_EQ(list.size(), static_cast<size_t>(count));
    EXPECT_EQ(list.empty(), count == 0);
  }
}

TEST(ShortList, CopiesAreApartAndMovedOnesAreEmpty) {
  for (const int count : {0, 2, 3, 4, 9}) {
    Three from = first(count), copy = from;
    copy.push_back(7);
    EXPECT_EQ(values(from), counted(count));
    Three moved = std::move(from);
    EXPECT_EQ(values(moved), counted(count));
    EXPECT_TRUE(from.empty());
    from.push_back(1);
    EXPECT_EQ(values(from), std::vector<int>{1});
    from = moved;
    EXPECT_EQ(from, moved);
    moved = std::move(copy);
    EXPECT_EQ(moved.size(), static_cast<size_t>(count) + 1);
  }
}

TEST(ShortList, AnElementOfItsOwnCanBeAppended) {
  Three list = first(3);
  list.push_back(list[1]);
  EXPECT_EQ(values(list), (std::vector<int>{0, 1, 2, 1}));
}

TEST(ShortList, ErasesAndAssignsAsAVectorDoes) {
  Three list = first(7);
  EXPECT_EQ(*list.erase(list.begin() + 2), 3);
  list.erase(list.begin() + 4, list.end());
  EXPECT_EQ(values(list), (std::vector<int>{0, 1, 3, 4}));
  erase_if(list, [](int value) { return value % 2 == 1; });
  EXPECT_EQ(values(list), (std::vector<int>{0, 4}));
  list.assign(5, 8);
  EXPECT_EQ(values(list), std::vector<int>(5, 8));
  const std::vector<int> others = {2, 1};
  list.assign(others.begin(), others.end());
  EXPECT_EQ(list, (Three{2, 1}));
}

}  // namespace
}  // namespace sluice
