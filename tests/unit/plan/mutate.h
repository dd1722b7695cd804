// One random mistake in a schedule or in where its buffers lie.
#pragma once

#include <optional>
#include <string_view>

#include "tests/unit/plan/random_plan.h"

namespace sluice::plan {

enum class Mutation : uint8_t {
  drop_dependency,
  drop_all_dependencies,
  swap_ops,     // two ops change places; dependencies follow their ops, and may then point to later ones
  swap_places,  // the same, but each takes over the other's dependencies
  change_lane,  // half the time without the dependencies that the new lane's order would stand for
  shrink_tier,
  move_buffer,
  resize_buffer,
  free_early,  // an operand takes another buffer of the tier, as if that were free
  shift_range,
  change_access,
  drop_op,
  duplicate_op,
  flip_accumulate,
  relabel,  // another micro-batch, block, group or part of one, or another argument of its block
  two_at_once,
};
inline constexpr int kMutationCount = 16;
std::string_view name_of(Mutation mutation);

struct Mutated {
  Schedule schedule;
  std::vector<Buffer> buffers;
  std::array<Bytes, kTierCount> capacity;
  std::string what;  // for people
  bool buffers_changed = false;
};

// None when the schedule has nothing that can be so changed.
std::optional<Mutated> mutate(Mutation mutation, const Schedule& schedule, const std::vector<Buffer>& buffers,
                              const std::array<Bytes, kTierCount>& capacity, Random& random);

}  // namespace sluice::plan
