// Brackets count, but not those inside texts.
#include "runtime/core/json_nesting.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice {
namespace {

std::string nested(int levels, const std::string& inside) {
  return std::string(static_cast<size_t>(levels), '[') + inside + std::string(static_cast<size_t>(levels), ']');
}

TEST(JsonNesting, CountsLevelsNotBrackets) {
  EXPECT_FALSE(nests_too_deep(nested(kJsonLevelsMax, "1")));
  EXPECT_TRUE(nests_too_deep(nested(kJsonLevelsMax + 1, "1")));
  std::string wide = "[";
  for (int i = 0; i < 1000; ++i) wide += "{\"a\":[]},";
  EXPECT_FALSE(nests_too_deep(wide + "0]"));
}

TEST(JsonNesting, PassesOverTexts) {
  const std::string brackets(1000, '[');
  EXPECT_FALSE(nests_too_deep("[\"" + brackets + "\"]"));
  EXPECT_FALSE(nests_too_deep("[\"\\\"" + brackets + "\"]")) << "an escaped quote ends no text";
  EXPECT_TRUE(nests_too_deep("[\"\\\\\"" + brackets)) << "an escaped backslash escapes no quote";
  EXPECT_FALSE(nests_too_deep("\"\\")) << "a text that does not end";
}

}  // namespace
}  // namespace sluice
