// Each policy at its own best batch on one machine.
#pragma once

#include <optional>

#include "bench/literature/policies.h"

namespace sluice::literature {

// No step has more sequences than this: the most that the Fuyou paper reports.
inline constexpr int64_t kStepRowsMax = 128;

struct Comparison {
  std::optional<Outcome> fuyou, zero_infinity, sluice;
  std::optional<Outcome> sluice_same_rows;  // as many sequences a step as Fuyou's best, in any micro-batches
};

Comparison compare(const DenseModel& model, const Fuyou& policy, const plan::Machine& machine);

}  // namespace sluice::literature
