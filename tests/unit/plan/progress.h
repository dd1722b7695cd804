// From phase to phase as the trainer goes, for tests that go every way it may.
#pragma once

#include "runtime/plan/choices.h"
#include "runtime/plan/phase.h"

namespace sluice::plan {

enum class Early : uint8_t { wait, update };

class Progress {
 public:
  Progress() = default;
  explicit Progress(const Plan& plan) : has_early_(updates_behind_backward(plan)), undoable_(plan.undoable) {}

  Phase next(PhaseKind kind, int micro_batches, Early early = Early::wait) const {
    Phase phase = state_;
    phase.kind = kind;
    phase.micro_batches = micro_batches;
    phase.early = kind == PhaseKind::train && has_early_ && (early == Early::update || !undoable_);
    return phase;
  }
  // Of a `train` that updated early, before it counts as ended.
  Phase redo_of(const Phase& trained, int micro_batches) const {
    Progress meanwhile = *this;
    meanwhile.updated();
    Phase redo = meanwhile.next(PhaseKind::redo, micro_batches);
    redo.odd = trained.odd;
    return redo;
  }
  void ended(const Phase& phase) {
    if (phase.kind == PhaseKind::restore) state_.states_stored = state_.early_states_stored = true;
    if (phase.kind != PhaseKind::train && phase.kind != PhaseKind::flush) return;
    updated();
    if (phase.kind == PhaseKind::flush) return;
    state_.pending = true;
    state_.early_pending = has_early_ && !phase.early;
    if (!phase.early) return;
    state_.early_states_stored = state_.early_weights_stored = true;
    if (undoable_) state_.odd = !state_.odd;
  }
  // A `train` that is not to count: what it updated early is in the second set, which stays the older one.
  void skipped() { updated(); }
  bool pending() const { return state_.pending || state_.early_pending; }
  bool odd() const { return state_.odd; }

 private:
  void updated() {
    if (state_.pending) state_.states_stored = state_.weights_stored = true;
    if (state_.early_pending) state_.early_states_stored = state_.early_weights_stored = true;
    state_.pending = state_.early_pending = false;
  }

  bool has_early_ = false, undoable_ = false;
  Phase state_;
};

}  // namespace sluice::plan
