// Small random jobs, and for each a few plans: some at random with every residence and slot fate, and what the planner
// chooses with all the memory it wants and with less. For the differential test of verify.
#pragma once

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

struct RandomJob {
  JobShape shape;
  PlanRequest request;         // clips, resumes, and what the source is; the rest is each plan's own
  std::vector<Planned> plans;  // they compute the same
};
// Full or with adapters, 2 to 6 blocks, 1 to 8 micro-batches, several chunks a group, rings of every depth.
RandomJob random_job(uint64_t seed);

}  // namespace sluice::plan
