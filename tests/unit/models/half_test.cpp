// runtime/core/half.h and what the row kernels convert by: every pattern there is.
#include "runtime/core/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "models/ops/element.h"

namespace sluice {
namespace {

TEST(Half, EveryNumberComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = f16_to_float(static_cast<uint16_t>(bits));
    const uint16_t back = float_to_f16(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_float(back)));
    } else {
      EXPECT_EQ(back, bits);
    }
  }
}

// Between two neighbours the nearer one, half-way the even one; past the largest and half a step, infinity.
TEST(Half, RoundsToTheNearestAndTiesToEven) {
  for (uint32_t low = 0; low < 0x7c00; ++low) {
    const float below = f16_to_float(static_cast<uint16_t>(low));
    const float above = low == 0x7bff ? 65536.0f : f16_to_float(static_cast<uint16_t>(low + 1));
    const float middle = below + (above - below) / 2;  // exact in fp32
    EXPECT_EQ(float_to_f16(std::nextafter(middle, below)), low);
    EXPECT_EQ(float_to_f16(std::nextafter(middle, above)), low + 1);
    EXPECT_EQ(float_to_f16(middle), low + low % 2);
    EXPECT_EQ(float_to_f16(-middle), 0x8000u + low + low % 2);
  }
}

// The row kernels' own conversions, which have no branches.
TEST(Half, KernelsConvertAlike) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const models::F16 half{static_cast<uint16_t>(bits)};
    const float value = models::load(&half), expected = f16_to_float(half.bits);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(expected)) << bits;
    }
  }
  for (uint64_t bits = 0; bits < 0x100000000u; bits += 977) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    models::F16 half;
    models::store(&half, value);
    ASSERT_EQ(half.bits, float_to_f16(value)) << bits;
  }
}

}  // namespace
}  // namespace sluice
