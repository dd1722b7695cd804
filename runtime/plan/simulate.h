// Predicts a schedule's time: every lane is one server that takes its ops in program order when their dependencies
// have ended. The same value gives the lower bound: each lane's work over its measured rate, the largest of them.
#pragma once

#include <array>
#include <vector>

#include "runtime/plan/machine_profile.h"
#include "runtime/plan/schedule.h"

namespace sluice::plan {

struct Slice {
  Microseconds begin, end;
};

struct LaneWork {
  double flops = 0;
  int64_t bytes = 0;
};

struct Bound {
  Microseconds time;
  Lane lane = Lane::compute;  // the one that binds
  std::array<Microseconds, kLaneCount> by_lane;
};

struct Simulation {
  Microseconds time;
  Bound bound;
  std::vector<Slice> ops;
  std::array<LaneWork, kLaneCount> work;
  std::array<Bytes, kTierCount> peak;  // end of the highest buffer that an op touches
};

std::array<LaneWork, kLaneCount> work_of(const Schedule& schedule);
// When disk reads and writes share the drive, their sum over `disk_both` bounds too.
Bound bound_of(const std::array<LaneWork, kLaneCount>& work, const MachineProfile& profile);
Simulation simulate(const Schedule& schedule, const std::vector<Buffer>& buffers, const MachineProfile& profile);

}  // namespace sluice::plan
