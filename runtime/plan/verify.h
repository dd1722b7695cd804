// Proves a schedule before it runs, knowing nothing of how it was built.
//
// Safe: under any timing that lanes and dependencies allow it cannot deadlock, overrun a tier, read what was not
// written, or touch a byte that another op may touch at the same time. A safe schedule computes under any timing what
// it computes in program order. Right: that is what the phase asks for. Every operand holds what its op takes it for,
// the arithmetic is done in the one order that all plans share, nothing is left out, and lasting memory ends up to
// date.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "runtime/core/result.h"
#include "runtime/plan/job_shape.h"
#include "runtime/plan/phase.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/schedule.h"

namespace sluice::plan {

// Which lasting bytes hold which part of the job (weights, states or gradient of a group) between phases.
class Homes {
 public:
  struct Map;
  Homes();
  ~Homes();
  Homes(Homes&&) noexcept;
  Homes& operator=(Homes&&) noexcept;

  Map& map() { return *map_; }
  const Map& map() const { return *map_; }

 private:
  std::unique_ptr<Map> map_;
};

// Learnt from what all schedules of a plan do with them: the first that takes a place for something else is named.
Result<Homes> homes_of(const std::map<Phase, Schedule>& schedules, const std::vector<Buffer>& buffers,
                       const JobShape& shape, const Plan& plan);

// Safe. The first problem found, naming the ops and the buffer.
Result<void> verify(const Schedule& schedule, const std::vector<Buffer>& buffers,
                    const std::array<Bytes, kTierCount>& capacity);

// Safe and right.
Result<void> verify(const Schedule& schedule, const std::vector<Buffer>& buffers,
                    const std::array<Bytes, kTierCount>& capacity, const JobShape& shape, const Plan& plan,
                    const Phase& phase, const Homes& homes);

}  // namespace sluice::plan
