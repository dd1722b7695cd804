// Each policy at its own best batch, on one machine after another.
#pragma once

#include <optional>
#include <set>
#include <utility>

#include "bench/literature/policies.h"

namespace sluice::literature {

// No step has more sequences than this: the most that the Fuyou paper reports.
inline constexpr int64_t kStepRowsMax = 128;

struct Comparison {
  std::optional<Outcome> fuyou, zero_infinity, sluice;
  std::optional<Outcome> sluice_same_rows;  // as many sequences a step as Fuyou's best, in one micro-batch or two
};

// Machines must come with RAM falling: a batch of ours that did not fit one is not tried on the next. Drives do not
// matter to that, as no machine's are full.
class Comparer {
 public:
  // `states`: ours.
  Comparer(const DenseModel& model, const Fuyou& policy, StateFormat states)
      : model_(model), policy_(policy), states_(states) {}
  Comparison on(const plan::Machine& machine);

 private:
  std::optional<Outcome> sluice(int64_t rows, int64_t micro_batches, const plan::Machine& machine);
  std::optional<Outcome> sluice_best(const plan::Machine& machine);

  const DenseModel& model_;
  const Fuyou& policy_;
  const StateFormat states_;
  std::set<std::pair<int64_t, int64_t>> unfit_;
};

}  // namespace sluice::literature
