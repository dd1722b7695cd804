// Which part of the job every byte of memory holds, while a schedule is walked through in program order.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "runtime/core/tier.h"
#include "runtime/plan/range_map.h"
#include "runtime/plan/schedule.h"

namespace sluice::plan {

struct Thing {
  enum Kind : uint8_t {
    nothing,  // never written, or no longer good for anything
    home,     // while homes are learnt: what a lasting byte held when the phase began; a: its tier
    staged_weights,
    staged_states,
    weights,            // a: group, c: which of two sets
    states,             // a: group, c: which of two sets; of elements [begin, end)
    gradient,           // a: group
    boundary,           // a: the block that takes it, b: micro-batch
    boundary_gradient,  // of a: the block that gave the boundary, b: micro-batch
    slot,               // a: block, b: micro-batch, c: slot
  };
  Kind kind = nothing;
  int a = kNone, b = kNone, c = kNone;
  int64_t begin = 0, end = 0;
  int version = 0;
  bool operator==(const Thing&) const = default;
  bool lasts() const { return kind == weights || kind == states || kind == gradient; }
};

// Versions. Weights and states: 0 as the phase finds them, one more after each update. Gradients: kPending from the
// step before, else how many (block, micro-batch) have been added. kStale: no longer kept up to date, or not there yet.
inline constexpr int kStale = -2, kPending = -1;

std::string describe(const Thing& thing);

// A byte at address x is byte x - base of the thing.
struct Content {
  Thing thing;
  int64_t base = 0;
  bool operator==(const Content&) const = default;
};
using Memory = std::array<RangeMap<Content>, kTierCount>;

}  // namespace sluice::plan
