// Where a step's time went, lane by lane and block by block: busy, or stalled and on what. The same account is made of
// a simulated schedule and of one that was executed.
#pragma once

#include <array>
#include <vector>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/simulate.h"

namespace sluice::plan {

// What a lane did for something: a whole step, or one block of it.
struct LaneTime {
  Microseconds busy;  // at least one op in flight; of ops at once, the oldest has the time
  // Ops were left and none ran, by the lane whose op ran meanwhile on the chain that the next op waited for; an op that
  // waited for another of which it waited for a third counts against the third while that ran.
  std::array<Microseconds, kLaneCount> stalled_on{};
  Microseconds handover;  // the same, while nothing ran that the next op waited for: queues, wake-ups
  int64_t bytes = 0;
  double flops = 0;

  Microseconds stalled() const;
  // Also where all its ops ran beside others of their lane, which have their time.
  bool did_something() const;
  LaneTime& operator+=(const LaneTime& other);
  LaneTime& operator/=(int64_t times);
};

struct StepAccount {
  Microseconds time;  // until the last op ended
  std::array<LaneTime, kLaneCount> lanes;
  std::array<Microseconds, kLaneCount>
      done;  // nothing left to do: after a lane's last op. busy + stalled + done = time
  // Of each block of the job, and last of ops that belong to none. A stall counts for the block of the op that ended
  // it, a group that several blocks have (a tied embedding) for the first of them. Their sum is `lanes`.
  std::vector<std::array<LaneTime, kLaneCount>> blocks;

  // Of a step in several phases, or of several steps; their mean.
  StepAccount& operator+=(const StepAccount& other);
  StepAccount& operator/=(int64_t times);
};

// `ops`: when each op of the schedule ran.
StepAccount account_of(const Schedule& schedule, const std::vector<Slice>& ops, const JobShape& shape);

}  // namespace sluice::plan
