// The fastest that each lane of a machine has been seen at: what a step's bound is computed from.
#pragma once

#include <array>

#include "runtime/plan/simulate.h"

namespace sluice::plan {

// Starts from the rates that were measured before the job. A machine may run faster later on (a neighbour gone, a clock
// risen); then the faster rate counts from that step on, so that no step is faster than its bound. Not thread-safe.
class SeenRates {
 public:
  explicit SeenRates(const MachineProfile& measured) : profile_(measured) {}

  // The bound of a step that took `took`, its rates included. `work` as of work_of; `busy`: how long each lane had at
  // least one op in flight.
  Bound bound_of_step(std::array<LaneWork, kLaneCount> work, const std::array<Microseconds, kLaneCount>& busy,
                      Microseconds took);

  // Time of compute over that of its blocks' measured passes, the least of all steps; at most 1.
  double compute_pace() const { return compute_; }

 private:
  void learn_rates(const std::array<LaneWork, kLaneCount>& work, const std::array<Microseconds, kLaneCount>& busy);
  void learn_sharing(const Bound& bound, Microseconds alone, Microseconds took);

  MachineProfile profile_;
  double compute_ = 1;
};

// How long each lane had at least one op in flight, and none of the gaps between.
std::array<Microseconds, kLaneCount> busy_times(const Schedule& schedule, const std::vector<Slice>& ops);

}  // namespace sluice::plan
