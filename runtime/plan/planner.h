// Chooses a plan that fits the caps, lowers every phase, and proves each schedule before anything is allocated.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/schedule_builder.h"

namespace sluice::plan {

// What the user forces; the rest is the planner's.
struct PlanRequest {
  DeviceMemory memory = DeviceMemory::unified;
  std::optional<Tier> weights, states, gradients;
  std::optional<SlotFate> activations;
  std::optional<int> prefetch;
  bool clips = false;  // the update waits for the global norm, or must be undoable
  std::array<Bytes, kTierCount> caps;  // device, host (the whole process), disk
  // What set each cap, for messages: "offload.max_cpu", or "the free space of /mnt/nvme0".
  std::array<std::string, kTierCount> cap_origins = {"offload.max_gpu", "offload.max_cpu", "offload.max_disk"};
  std::vector<uint8_t> source_low_bits;  // see build_schedule
  bool resumes = false;
};

struct Planned {
  Plan plan;
  Layout layout;  // frozen
  std::map<Phase, Schedule> schedules;
  MemoryUse memory;

  // Builds and verifies phases that were not foreseen (a last step with fewer micro-batches).
  const Schedule& schedule(const Phase& phase, const JobShape& shape, const PlanRequest& request);
};

// Throws SetupError when nothing fits, naming the cap and the smallest value that works.
Planned make_plan(const JobShape& shape, const PlanRequest& request);

// Peak bytes per tier by tag, one row each, then totals against the caps.
std::string memory_table(const MemoryUse& memory, const JobShape& shape, const std::array<Bytes, kTierCount>& caps);

// The same and the decisions, for programs: {"plan_yaml", "peak_bytes": {tier: {tag: n, total, cap}}, ...}.
std::string to_json(const Planned& planned, const JobShape& shape, const std::array<Bytes, kTierCount>& caps);

}  // namespace sluice::plan
