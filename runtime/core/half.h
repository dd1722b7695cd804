// IEEE half precision: checkpoints may hold it.
#pragma once

#include <bit>
#include <cstdint>

namespace sluice {

// Static: optim's kernels are compiled for processors of their own, and the linker must not take one's copy for all.
static constexpr float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  // Subnormal: fraction * 2^-24, exact in fp32.
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

// Round to nearest, ties to even; too large a number becomes infinite, NaN stays NaN.
static constexpr uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const auto with_sign = [&](uint32_t half) { return static_cast<uint16_t>(sign | half); };
  if (magnitude > 0x7f800000u) return with_sign(0x7e00u);
  if (magnitude >= 0x477ff000u) return with_sign(0x7c00u);  // 65520 and above round to infinity
  if (magnitude >= 0x38800000u) {                           // 2^-14 and above: normal
    const uint32_t rebased = magnitude - (112u << 23);
    return with_sign((rebased + 0xfffu + (rebased >> 13 & 1u)) >> 13);
  }
  if (magnitude <= 0x33000000u) return with_sign(0);  // 2^-25 and below
  // Subnormal: in units of 2^-24.
  const uint32_t shift = 126 - (magnitude >> 23), fraction = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t half = fraction >> shift, rest = fraction & ((1u << shift) - 1), tie = 1u << (shift - 1);
  return with_sign(half + (rest > tie || (rest == tie && (half & 1u) != 0) ? 1 : 0));
}

}  // namespace sluice
