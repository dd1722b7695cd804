#include "runtime/core/dynamic_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace sluice {
namespace {

constexpr DynamicMap kMaps[] = {DynamicMap::with_sign, DynamicMap::unsigned_only};

TEST(DynamicMap, ValuesAscendFromTheirLeastToOne) {
  for (const DynamicMap map : kMaps) {
    const auto& values = dynamic_values(map);
    EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
    EXPECT_EQ(values.back(), 1.0f);
    EXPECT_EQ(values.front(), map == DynamicMap::with_sign ? -0.992968738079071044921875f : 0.0f);
  }
}

TEST(DynamicMap, AValueThatIsFarFromOthersIsItsOwnCode) {
  for (const DynamicMap map : kMaps)
    for (size_t code = 0; code < 256; ++code) {
      const float value = dynamic_values(map)[code];
      if (std::fabs(value) < 1e-3f) continue;  // steps of 3e-5 do not tell these apart
      EXPECT_EQ(dynamic_codes(map)[dynamic_step(value)], code) << value;
    }
}

TEST(DynamicMap, AnyNumberHasAStep) {
  EXPECT_EQ(dynamic_step(-1.0f), 0U);
  EXPECT_EQ(dynamic_step(1.0f), 65535U);
  EXPECT_EQ(dynamic_step(0.0f), 32768U);
  for (const float beyond : {1.0000001f, 2.0f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(dynamic_step(beyond), 65535U);
    EXPECT_EQ(dynamic_step(-beyond), 0U);
  }
  EXPECT_LT(dynamic_step(std::nanf("")), 65536U);
}

}  // namespace
}  // namespace sluice
