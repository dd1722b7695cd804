// Elementary functions without calls or branches: loops around them vectorise. Included by *_isa.cpp only, which are
// compiled once per instruction set.
#pragma once

#include <bit>
#include <cstdint>

namespace sluice::models {
namespace {

// exp to about one fp32 ulp for -87 < x < 88, by 2^k * p(r) (Cephes expf's polynomial). k is rounded by adding
// 1.5 * 2^23, which leaves it in the low bits.
__attribute__((always_inline)) inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;
  const float k = shifted - 12582912.0f;
  const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u;
  return p * std::bit_cast<float>(power);
}

__attribute__((always_inline)) inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

}  // namespace
}  // namespace sluice::models
