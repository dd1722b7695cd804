// Codes of the dynamic type without a table of 65,536: within a decade of values they lie on a line over the steps of
// dynamic_step, so that vectors of any width find them by a multiplication, a minimum and a comparison per decade.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/core/dynamic_map.h"

namespace sluice::optim {

inline constexpr int kDynamicDecades = 5;  // what steps of 2/65,535 tell apart

// With a the distance of a step from the middle of all (a half, one and a half, ...), the code's distance from that of
// zero is the whole part of: slope[0] a + begin[0]; where a < border[d], min(slope[d] a + begin[d], last[d]) instead,
// in the order of d. One more where a > top on the positive side, which alone has a code for 1.
struct DynamicLines {
  std::array<float, kDynamicDecades> slope{}, begin{}, border{}, last{};
  float top = 0;
  // The codes of the 64 steps from the middle on.
  alignas(64) uint8_t first_codes[64] = {};
};

// Fitted to dynamic_codes, and equal to them at every step (AdamW.EveryStepHasTheCodeOfTheTable).
const DynamicLines& dynamic_lines(DynamicMap map);

// The values as four tables of their bytes, the lowest first, for processors that look up bytes.
struct DynamicPlanes {
  alignas(64) uint8_t bytes[4][256];
};
const DynamicPlanes& dynamic_planes(DynamicMap map);

inline constexpr float kMiddleStep = 0.5f * (kDynamicSteps - 1);

}  // namespace sluice::optim
