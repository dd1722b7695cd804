// Where the trained model is between phases: what is pending, and where its newest weights and states are.
#pragma once

#include "runtime/plan/phase.h"
#include "runtime/plan/plan.h"

namespace sluice::train {

// As in plan::Phase; "early" groups are those that the plan updates behind backward.
class Progress {
 public:
  explicit Progress(const plan::Plan& plan);

  // The model comes from a checkpoint: its states are stored.
  void resumed();
  // Of this kind, from where the model is.
  plan::Phase phase(plan::PhaseKind kind, int micro_batches) const;
  // A train step; `early`: its early groups are updated in it.
  plan::Phase step(int micro_batches, bool early) const;

  // What was pending has been updated.
  void updated();
  // A train step has ended; with `early` its early groups are updated, for good.
  void stepped(bool early);

  bool has_pending() const { return pending_ || early_pending_; }
  // Since the start some step was not skipped. After a flush: weights and states are where the plan keeps them.
  bool has_changed() const { return pending_ || early_pending_ || weights_stored_ || early_weights_stored_; }
  // All trained weights are where the plan keeps them: none is read from the files that the run began with any more.
  bool has_all_weights() const { return weights_stored_ && (early_weights_stored_ || !has_early_); }
  bool odd() const { return odd_; }

 private:
  const bool has_early_, undoable_;
  bool pending_ = false, early_pending_ = false;
  bool states_stored_ = false, weights_stored_ = false;
  bool early_states_stored_ = false, early_weights_stored_ = false;
  bool odd_ = false;
};

}  // namespace sluice::train
