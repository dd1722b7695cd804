// Finds a good assignment of choices: starts from everything in the fastest memory, evicts what costs the least time
// per byte until the caps hold, then exchanges until nothing helps. Deterministic: it is bounded by the ops that it
// lowers, not by a clock.
#pragma once

#include <optional>

#include "runtime/plan/score.h"

namespace sluice::plan {

struct SearchLimits {
  std::array<Bytes, kTierCount> caps;  // of the steady step's buffers
  int64_t ops = 2'400'000;             // to lower and simulate beyond finding what fits
};

// Nothing when no assignment was found to fit. `from`: where it begins, what was found with larger caps; else from
// both ends.
std::optional<Assignment> search(const Choices& choices, Scorer& score, const SearchLimits& limits,
                                 const std::optional<Assignment>& from = std::nullopt);
// Any that fits, whatever its time.
std::optional<Assignment> search_any(const Choices& choices, Scorer& score, const SearchLimits& limits);

// What one more of `choice`'s family in a faster option would change, whether or not it fits; none when all have it.
struct Gain {
  int choice = 0;
  int option = 0;
  Microseconds saved;
  std::array<int64_t, kTierCount> bytes;  // more, per tier
};
std::optional<Gain> next_gain(const Choices& choices, Scorer& score, const Assignment& assignment, int family);

}  // namespace sluice::plan
