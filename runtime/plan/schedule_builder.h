// Lowers a Plan to the Schedule of one phase.
//
// A group is updated at one of two times. Before forward: in the *next* phase, just before the group's first use, where
// the global norm is known, the weights leave the disk once for update and forward, and the update overlaps that
// forward. Behind backward: in the same phase, one block after its own backward, overlapping the rest of it. With
// clipping the factor is not known there: weights and states of such groups then have two sets, each phase reads one
// and writes the other, and `redo` repeats the update from the old set when the norm exceeded its limit after all.
// A training phase is [update, forward] of every block in order, the loss, then the backwards; `flush` runs updates
// alone. Program order decides what each lane does next; how far a lane runs ahead is the number of buffers in a ring.
#pragma once

#include "runtime/plan/job_shape.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/schedule.h"

namespace sluice::plan {

enum class PhaseKind : uint8_t { load, restore, train, redo, flush, evaluate };

struct Phase {
  PhaseKind kind = PhaseKind::train;
  int micro_batches = 1;
  bool pending = false;         // gradients of the step before wait for their update
  bool states_stored = false;   // disk states have been written once; else they are virgin (zeros)
  bool weights_stored = false;  // trained disk weights have been written once; else they come from the user's files
  // Of groups that are updated behind backward. Not early: in this step they wait like all others, as its norm is
  // expected to exceed the limit.
  bool early = false;
  bool early_pending = false;  // the step before made them wait
  bool early_states_stored = false, early_weights_stored = false;
  bool odd = false;  // the second of two sets is the newest

  auto operator<=>(const Phase&) const = default;
};

std::string name_of(const Phase& phase);

// Asks `layout` for the buffers it needs. `source_low_bits[g]`: the group's source is fp32 and its weights bf16, so
// virgin states take their low halves from the source.
Schedule build_schedule(const JobShape& shape, const Plan& plan, const Phase& phase,
                        std::span<const uint8_t> source_low_bits, Layout& layout);

// Names of the buffers in which trained groups are found between phases, for saving them. The weights of a group whose
// home is the disk are read into its ring's first buffer.
std::string host_weights_name(const GroupPlan& where, const GroupShape& group, int g, int set);
std::string weights_extent_name(int g, int set);
std::string host_states_name(int g, int set);
std::string states_extent_name(int g, int64_t chunk, int set);
// Of the two sets, the newest: 1 for groups with two when `odd`, else 0.
int newest_set(const Plan& plan, int g, bool odd);
inline constexpr const char* kStatesRingFirst = "states.ring[0]";
// One of a ring of chunks of an update, in memory.
bool holds_a_chunk(const Buffer& buffer);

// The full step, once states and weights have been stored.
Phase steady_phase(const Plan& plan, int micro_batches);
Phase redo_phase(int micro_batches, bool odd);
// Phases that between them use every buffer that any phase of the job may use, for sizing the arenas: all micro-batch
// counts use buffers of the largest.
std::vector<Phase> phases_of(const JobShape& shape, const Plan& plan, bool resumes);

}  // namespace sluice::plan
