// Predicts a schedule's time: every lane is one server that takes its ops in program order when their dependencies
// have ended, and works at its measured rate times what the other lanes that are busy leave of it.
//
// The same value gives the lower bound: the largest of the lanes' own work plus what the other lanes' work takes from
// them. While lane b runs beside a, a is slowed to beside[a][b]; b's work w takes w / beside[b][a] then, so it costs a
// min(w, w (1 - beside[a][b]) / beside[b][a]): either they overlap, or they do not.
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
  Microseconds time;  // of compute ops
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

// The lane's work with nothing beside it. A rate that was not measured, because the job's steps do not need it, counts
// as no time.
Microseconds time_alone(Lane lane, const LaneWork& work, const MachineProfile& profile);

std::array<LaneWork, kLaneCount> work_of(const Schedule& schedule);
Bound bound_of(const std::array<LaneWork, kLaneCount>& work, const MachineProfile& profile);
Simulation simulate(const Schedule& schedule, const std::vector<Buffer>& buffers, const MachineProfile& profile);

}  // namespace sluice::plan
