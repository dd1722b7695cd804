// bitsandbytes' 8-bit dynamic type: a byte stands for one of 256 values of [-1, 1], or of [0, 1], whose steps shrink
// towards zero, times the largest magnitude of the block it is in (Dettmers 2015, "8-Bit Approximations for Parallelism
// in Deep Learning", section 2.1; create_dynamic_map in its functional.py).
#pragma once

#include <array>
#include <cstdint>

namespace sluice {

enum class DynamicMap : uint8_t { with_sign, unsigned_only };

// Ascending.
const std::array<float, 256>& dynamic_values(DynamicMap map);

// Its CPU backend finds the code of a number by a table over 65,536 steps of [-1, 1]: numbers nearer to each other than
// a step may share a code that is not the nearest one's. Other backends search; here all devices do as the CPU's.
inline constexpr int kDynamicSteps = 65536;
using DynamicCodes = std::array<uint8_t, kDynamicSteps>;
const DynamicCodes& dynamic_codes(DynamicMap map);  // by dynamic_step

// Of a number divided by the block's largest magnitude: |normed| <= 1 but for rounding.
constexpr uint32_t dynamic_step(float normed) {
  const float clamped = !(normed > -1.0f) ? -1.0f : normed > 1.0f ? 1.0f : normed;  // what is no number has one too
  return static_cast<uint32_t>((clamped + 1.0f) * 0.5f * static_cast<float>(kDynamicSteps - 1) + 0.5f);
}

}  // namespace sluice
