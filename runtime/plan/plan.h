// A policy as a value: where every byte lives and what is done with every slot. Printable and diffable.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/tier.h"
#include "runtime/core/units.h"
#include "runtime/plan/job_shape.h"

namespace sluice::plan {

// `unified`: device and host are the same memory (the cpu device): no copies. `separate`: the device has its own arena.
enum class DeviceMemory : uint8_t { unified, separate };

enum class SlotFate : uint8_t { keep, host, disk, recompute };
std::string_view name_of(SlotFate fate);

// When a trained group is updated: just before its next forward, when the global norm is known, or at once behind its
// backward.
enum class UpdateTime : uint8_t { before_forward, behind_backward };
std::string_view name_of(UpdateTime time);

struct GroupPlan {
  Tier weights = Tier::host;    // home of the compute weights
  Tier states = Tier::host;     // home of lo, m, v
  Tier gradients = Tier::host;  // where they wait for their update
  UpdateTime update = UpdateTime::before_forward;
};
// A trained group whose states are on the device has its weights and gradients there too, and is updated there.
inline bool lives_on_device(const GroupPlan& group) { return group.states == Tier::device; }

struct BlockPlan {
  SlotFate input = SlotFate::keep;  // the boundary before this block; never recompute
  std::vector<SlotFate> slots;
};

struct Plan {
  DeviceMemory memory = DeviceMemory::unified;
  std::vector<GroupPlan> groups;
  std::vector<BlockPlan> blocks;
  // Updates behind backward leave the old weights and states in place and write a second set, as the clip factor is not
  // known yet: a step whose norm turns out to exceed the limit is updated once more from the old set.
  bool undoable = false;
  int prefetch = 2;                  // blocks fetched ahead of the one that computes
  int64_t chunk_elements = 1 << 20;  // parameters per update; a multiple of 4096
  int chunk_ring = 6;                // chunks of state in flight
  // Blocks whose gradients are on their way from the device: with one, a backward waits for the copies before it.
  int gradient_ring = 2;
  std::vector<std::string> reasons;  // one line per decision that was not the user's
};

// Any group's update.
bool updates_behind_backward(const Plan& plan);

// Of a group: parameters, or of a packed group bytes, as many as a 16-bit weight has.
int64_t chunk_elements(const Plan& plan, const GroupShape& group);

// What a chunk's states, of so many bytes, take in the home of its group's: whole pages, as transfers are.
int64_t states_stride(int64_t bytes);
// Where those of the chunk that begins at the element lie there. Of all elements: what the home takes.
int64_t states_begin(const Plan& plan, const GroupShape& group, int64_t element);

// YAML: the decisions, run-length encoded over equal blocks and groups, and the reasons.
std::string to_yaml(const Plan& plan, const JobShape& shape);

}  // namespace sluice::plan
