#include "runtime/train/progress.h"

namespace sluice::train {

Progress::Progress(const plan::Plan& plan)
    : has_early_(plan::updates_behind_backward(plan)), undoable_(plan.undoable) {}

void Progress::resumed() { states_stored_ = early_states_stored_ = true; }

plan::Phase Progress::phase(plan::PhaseKind kind, int micro_batches) const {
  const bool updates = kind != plan::PhaseKind::evaluate;
  plan::Phase phase{kind, micro_batches, updates && pending_, states_stored_, weights_stored_};
  phase.early_pending = updates && early_pending_;
  phase.early_states_stored = early_states_stored_;
  phase.early_weights_stored = early_weights_stored_;
  phase.odd = odd_;
  return phase;
}

plan::Phase Progress::step(int micro_batches, bool early) const {
  plan::Phase step = phase(plan::PhaseKind::train, micro_batches);
  step.early = early;
  return step;
}

void Progress::updated() {
  if (pending_) states_stored_ = weights_stored_ = true;
  if (early_pending_) early_states_stored_ = early_weights_stored_ = true;
  pending_ = early_pending_ = false;
}

void Progress::stepped(bool early) {
  if (early) {
    odd_ ^= undoable_;
    early_states_stored_ = early_weights_stored_ = true;
  }
  pending_ = true;
  early_pending_ = has_early_ && !early;
}

}  // namespace sluice::train
