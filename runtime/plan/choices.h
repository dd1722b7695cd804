// Everything that a plan may decide, as a list of choices with a few options each: what the search searches.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/tier.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/planner.h"

namespace sluice::plan {

enum class ChoiceKind : uint8_t {
  weights,
  states,
  gradients,
  update,
  input,
  slot,
  prefetch,
  chunk_ring,
  gradient_ring
};

// One decision about one thing. Options go from the one that takes the fastest memory to the one that takes the least.
struct Choice {
  ChoiceKind kind = ChoiceKind::weights;
  int index = 0;  // of the group or block
  int slot = 0;
  int family = 0;
  // Within its family, who gets the fast option first. Weights, states and gradients: spread evenly over the model, so
  // that traffic is even over the step; boundaries and slots: from the last block, whose round trip is the shortest.
  int rank = 0;
  std::vector<uint8_t> options;  // Tier, UpdateTime, SlotFate, or a number
  // Bytes that the thing itself takes under each option, rings and workspaces aside.
  std::vector<std::array<int64_t, kTierCount>> bytes;
};

// Choices about equal things: a family is decided by how many of it take each option.
struct Family {
  std::string name;
  std::vector<int> members;  // by rank
};

using Assignment = std::vector<int>;  // per choice, the number of its option

class Choices {
 public:
  // What the request forces has no choice.
  Choices(const JobShape& shape, const PlanRequest& request, int64_t chunk_elements);

  const std::vector<Choice>& all() const { return all_; }
  const std::vector<Family>& families() const { return families_; }
  Assignment fastest() const { return Assignment(all_.size(), 0); }
  Assignment smallest() const;
  Plan plan_of(const Assignment& assignment) const;
  // "host", "recompute", "4".
  std::string option_name(int choice, int option) const;

 private:
  void add_groups(const JobShape& shape, const PlanRequest& request);
  void add_blocks(const JobShape& shape, const PlanRequest& request);
  void add_rings(const PlanRequest& request);
  void add(Choice choice, const std::string& family);
  void rank_families();

  Plan base_;
  bool clips_ = false;
  std::vector<Choice> all_;
  std::vector<Family> families_;
};

// Chunks of an update: so many that a group streams, no more than its transfers need to be efficient.
int64_t chunk_elements_for(int64_t largest_group_elements);

}  // namespace sluice::plan
