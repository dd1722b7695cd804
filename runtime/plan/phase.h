// What one run of the executor is for: a step, or what comes before, between and after steps. The same plan is lowered
// for each phase, to a schedule of its own.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/plan.h"

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

// The full step, once states and weights have been stored.
Phase steady_phase(const Plan& plan, int micro_batches);
// The same, where groups that are updated behind backward wait for the norm, in this step and in the one before.
Phase waiting_phase(int micro_batches, bool odd);
Phase redo_phase(int micro_batches, bool odd);
// Phases that between them use every buffer that any phase of the job may use, for sizing the arenas: all micro-batch
// counts use buffers of the largest.
std::vector<Phase> phases_of(const JobShape& shape, const Plan& plan, bool resumes);

}  // namespace sluice::plan
