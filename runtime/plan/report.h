// What a plan says of itself, for people and for programs.
#pragma once

#include <string>

#include "runtime/plan/planner.h"

namespace sluice::plan {

// Peak bytes per tier by tag, one row each, then totals against the caps.
std::string memory_table(const MemoryUse& memory, const JobShape& shape, const std::array<Bytes, kTierCount>& caps);

// What the job as a whole comes to.
struct Forecast {
  Microseconds step, clipped_step;  // the same where the plan does not speculate
  double tokens_per_second = 0;
  Bound bound;
  double percent_of_bound = 0;
  std::array<Microseconds, kLaneCount> busy;  // each lane's own work, alone
  Bytes disk_read, disk_written;              // per step
  int64_t steps = 0;
  Bytes written_by_job;
  Microseconds finish;
};
Forecast forecast_of(const Planned& planned, const JobShape& shape, const MachineProfile& profile, int64_t steps);

// `rated_endurance`: bytes that the drives are rated to be written; 0: not known.
std::string forecast_table(const Forecast& forecast, Bytes rated_endurance);

// All of it, for programs: {"plan_yaml", "peak_bytes": {tier: {tag: n, total, cap}}, "forecast": {...}, ...}.
std::string to_json(const Planned& planned, const JobShape& shape, const std::array<Bytes, kTierCount>& caps,
                    const Forecast& forecast);

}  // namespace sluice::plan
