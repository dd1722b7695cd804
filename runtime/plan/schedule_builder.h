// Lowers a Plan to the Schedule of one phase.
//
// The update of a group runs in the *next* phase, just before the group's first use: it overlaps that forward, the
// weights come off the disk once for both, and the global norm is known. So a training phase is
// [update, forward] of every block in order, the loss, then the backwards; `flush` runs the updates alone.
// Program order decides what each lane does next; how far a lane runs ahead is the number of buffers in a ring.
#pragma once

#include "runtime/plan/job_shape.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/schedule.h"

namespace sluice::plan {

enum class PhaseKind : uint8_t { load, restore, train, flush, evaluate };

struct Phase {
  PhaseKind kind = PhaseKind::train;
  int micro_batches = 1;
  bool pending = false;         // gradients of the step before wait for their update
  bool states_stored = false;   // disk states have been written once; else they are virgin (zeros)
  bool weights_stored = false;  // trained disk weights have been written once; else they come from the user's files

  auto operator<=>(const Phase&) const = default;
};

std::string name_of(const Phase& phase);

// Asks `layout` for the buffers it needs. `source_low_bits[g]`: the group's source is fp32 and its weights bf16, so
// virgin states take their low halves from the source.
Schedule build_schedule(const JobShape& shape, const Plan& plan, const Phase& phase,
                        std::span<const uint8_t> source_low_bits, Layout& layout);

// Names of the buffers in which trained groups are found between phases, for saving them. The weights of a group whose
// home is the disk are read into its ring's first buffer.
std::string host_weights_name(const GroupPlan& where, const GroupShape& group, int g);
std::string weights_extent_name(int g);
std::string host_states_name(int g);
std::string states_extent_name(int g, int64_t chunk);
inline constexpr const char* kStatesRingFirst = "states.ring[0]";
// One of a ring of chunks of an update, in memory.
bool holds_a_chunk(const Buffer& buffer);

// The full step, once states and weights have been stored.
Phase steady_phase(int micro_batches);
// Every phase that a job may run, for sizing the arenas: all micro-batch counts use buffers of the largest.
std::vector<Phase> phases_of(const JobShape& shape, bool resumes);

}  // namespace sluice::plan
