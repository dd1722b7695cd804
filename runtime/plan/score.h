// What a plan is worth: the simulated time of its steady step and the memory it takes, quickly enough to try hundreds.
#pragma once

#include <array>
#include <map>

#include "runtime/plan/choices.h"
#include "runtime/plan/machine_profile.h"
#include "runtime/plan/planner.h"

namespace sluice::plan {

struct Score {
  Microseconds time;
  // What plans are compared by: time, and a little for every byte moved, so that of two plans of one time the one that
  // moves less wins (wear, energy, and room for what the simulation does not see).
  Microseconds price;
  std::array<Bytes, kTierCount> memory;  // of the buffers of loading, evaluation and the steady step
};

// Lowers plans with coarser chunks and, where a step has many micro-batches, fewer and larger ones, both of the same
// bytes in all: the order of plans is kept, and the winner is lowered exactly afterwards.
class Scorer {
 public:
  Scorer(const JobShape& shape, const PlanRequest& request, const Choices& choices, const MachineProfile& profile);

  // `timed` false: memory only, time zero.
  const Score& operator()(const Assignment& assignment, bool timed = true);
  // The same for many, on all cores.
  void prepare(const std::vector<Assignment>& assignments, bool timed = true);
  // Ops lowered so far: what the search spends.
  int64_t spent() const { return spent_; }

 private:
  struct Scored {
    Score score;
    int64_t ops = 0;
  };
  Scored scored(const Assignment& assignment, bool timed) const;

  const PlanRequest& request_;
  const Choices& choices_;
  const MachineProfile& profile_;
  int64_t largest_group_ = 1;
  std::map<int, JobShape> coarse_;  // by how many times larger chunks are
  std::map<std::pair<Assignment, bool>, Score> known_;
  int64_t spent_ = 0;
};

}  // namespace sluice::plan
