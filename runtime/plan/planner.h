// Chooses a plan that fits the caps, lowers every phase, and proves each schedule before anything is allocated.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/machine_profile.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/schedule_builder.h"
#include "runtime/plan/simulate.h"

namespace sluice::plan {

// What the user forces; the rest is the planner's.
struct PlanRequest {
  DeviceMemory memory = DeviceMemory::unified;
  std::optional<Tier> weights, states, gradients;
  std::optional<SlotFate> activations;
  std::optional<UpdateTime> update;
  std::optional<int> prefetch;
  bool clips = false;  // the update waits for the global norm, or must be undoable; also when a step may be skipped
  std::array<Bytes, kTierCount> caps;  // device, host (the whole process), disk
  // What set each cap, for messages: "offload.max_cpu", or "the free space of /mnt/nvme0".
  std::array<std::string, kTierCount> cap_origins = {"offload.max_gpu", "offload.max_cpu", "offload.max_disk"};
  std::vector<uint8_t> source_low_bits;  // see build_schedule
  bool resumes = false;
  int64_t chunk_elements = 1 << 20;  // parameters per update: chunk_elements_for
  // A job that fits in memory is planned without the drive's rates: the disk is not used then unless forced.
  MachineProfile profile;
  // Asked when nothing fits: other settings of the job that do, as sentences.
  std::function<std::vector<std::string>()> settings_that_fit;
};

// A step whose updates run behind backward, before the norm is known: as long as it was not exceeded, when it was, and
// what waiting for it takes. Until steps were seen nobody knows which it will be.
struct ClippingTimes {
  Microseconds speculate, redo, wait;
};

struct Planned {
  Plan plan;
  Layout layout;  // frozen
  std::map<Phase, Schedule> schedules;
  MemoryUse memory;
  Simulation steady;  // of the full step, once states are stored; where the plan speculates, none is clipped
  std::optional<ClippingTimes> clipping;  // where the plan speculates

  // Of a step in a row of which the norm exceeds max_grad_norm each time.
  Microseconds clipped_step() const;
  // Builds and verifies phases that were not foreseen (a last step with fewer micro-batches).
  const Schedule& schedule(const Phase& phase, const JobShape& shape, const PlanRequest& request);
};

// Throws SetupError when nothing fits, naming the caps and the smallest values that work.
Planned make_plan(const JobShape& shape, const PlanRequest& request);
// Nothing when nothing fits.
std::optional<Planned> find_plan(const JobShape& shape, const PlanRequest& request);
// The same, without looking for the fastest: much quicker.
bool can_fit(const JobShape& shape, const PlanRequest& request);
// False when everything fits in memory and nothing is forced to the disk: the drive's rates do not matter.
bool needs_disk(const JobShape& shape, const PlanRequest& request);

// What a plan takes of a tier; of the host also what the process takes beside its arenas, of the disk what checkpoints
// do.
Bytes memory_in(Tier tier, const MemoryUse& memory, const JobShape& shape);
// What checkpoints take of the disk: until all that are kept are this run's, those of runs before beside its own.
Bytes checkpoint_bytes(const MemoryUse& memory, const JobShape& shape);
// What the process takes while the job's blocks and rates are measured.
Bytes memory_to_measure(const JobShape& shape);

}  // namespace sluice::plan
