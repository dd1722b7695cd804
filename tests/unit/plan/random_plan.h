// Small random jobs and plans: every residence and slot fate, several chunks a group, rings of every depth.
#pragma once

#include <map>
#include <random>

#include "runtime/plan/planner.h"

namespace sluice::plan {

using Random = std::mt19937_64;

inline int64_t pick(Random& random, int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random);
}
template <class T>
const T& pick(Random& random, const std::vector<T>& from) {
  return from[static_cast<size_t>(pick(random, 0, static_cast<int64_t>(from.size()) - 1))];
}

JobShape random_shape(Random& random);
Plan random_plan(Random& random, const JobShape& shape);
PlanRequest random_request(Random& random, const JobShape& shape);

// A plan lowered for every phase of its job, as the planner does it.
struct Lowered {
  Plan plan;
  std::vector<Buffer> buffers;
  std::array<Bytes, kTierCount> capacity;
  std::map<Phase, Schedule> schedules;
};
Lowered lower(const JobShape& shape, const Plan& plan, bool low_bits, bool resumes);

}  // namespace sluice::plan
