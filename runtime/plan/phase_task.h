// What a phase is to do: what lasting memory holds before and after it, and the order in which gradients are added.
#pragma once

#include <vector>

#include "runtime/plan/buffer_names.h"
#include "runtime/plan/job_shape.h"
#include "runtime/plan/memory_content.h"
#include "runtime/plan/phase.h"
#include "runtime/plan/plan.h"

namespace sluice::plan {

class PhaseTask {
 public:
  PhaseTask(const JobShape& shape, const Plan& plan, const Phase& phase);

  bool loads() const { return phase_.kind == PhaseKind::load || phase_.kind == PhaseKind::restore; }
  bool trains() const { return phase_.kind == PhaseKind::train; }
  bool takes_losses() const { return trains() || phase_.kind == PhaseKind::evaluate; }

  // Before forward, of what waits since the step before.
  bool is_updated_before(int group) const;
  // Behind backward, or once more from the old set.
  bool is_updated_behind(int group) const;
  // Version of the weights that forward and backward take; the set that it is in, and the one that an update behind
  // backward writes.
  int newest(int group) const { return is_updated_before(group) ? 1 : 0; }
  int set_now(int group) const { return is_trainable(group) ? newest_set(plan_, group, phase_.odd) : 0; }
  int set_next(int group) const { return is_early(group) && plan_.undoable ? 1 - set_now(group) : set_now(group); }
  // Disk states and weights of the group have been written once.
  bool states_stored(int group) const { return is_early(group) ? phase_.early_states_stored : phase_.states_stored; }
  bool weights_stored(int group) const { return is_early(group) ? phase_.early_weights_stored : phase_.weights_stored; }
  // The version of the gradient that an update takes.
  int gradient_for_update(int group, bool early) const { return early && trains() ? additions(group) : kPending; }

  // Of the gradient of a group: parts, one for each block that uses the group and each micro-batch.
  int additions(int group) const;
  // How many parts come before that of this block and micro-batch.
  int turn(int group, int block, int micro_batch) const;

  // `at_home`: what is found there when it is found at all.
  Content at_begin(Tier tier, Content at_home) const;
  Content at_end(Tier tier, Content at_home) const;

 private:
  static size_t index(int i) { return static_cast<size_t>(i); }
  bool is_trainable(int group) const { return shape_.groups[index(group)].trainable; }
  bool is_early(int group) const {
    return is_trainable(group) && plan_.groups[index(group)].update == UpdateTime::behind_backward;
  }
  bool stored(Tier tier, const Thing& thing) const;

  const JobShape& shape_;
  const Plan& plan_;
  const Phase phase_;
  std::vector<std::vector<int>> blocks_of_;  // per group: the blocks that use it, last first
};

}  // namespace sluice::plan
