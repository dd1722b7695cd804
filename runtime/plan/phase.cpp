#include "runtime/plan/phase.h"

namespace sluice::plan {

std::string name_of(const Phase& phase) {
  switch (phase.kind) {
    case PhaseKind::load:
      return "load";
    case PhaseKind::restore:
      return "restore";
    case PhaseKind::redo:
      return "redo";
    case PhaseKind::flush:
      return "flush";
    case PhaseKind::evaluate:
      return "evaluate x" + std::to_string(phase.micro_batches);
    case PhaseKind::train:
      break;
  }
  return "train x" + std::to_string(phase.micro_batches) +
         (phase.pending ? (phase.states_stored ? ", update" : ", first update") : ", no update") +
         (phase.early ? ", update behind backward" : "");
}

Phase steady_phase(const Plan& plan, int micro_batches) {
  Phase phase{PhaseKind::train, micro_batches, true, true, true};
  phase.early = phase.early_states_stored = phase.early_weights_stored = updates_behind_backward(plan);
  return phase;
}

Phase waiting_phase(int micro_batches, bool odd) {
  Phase phase{PhaseKind::train, micro_batches, true, true, true};
  phase.early_pending = phase.early_states_stored = phase.early_weights_stored = true;
  phase.odd = odd;
  return phase;
}

Phase redo_phase(int micro_batches, bool odd) {
  return {PhaseKind::redo, micro_batches, false, true, true, false, false, true, true, odd};
}

std::vector<Phase> phases_of(const JobShape& shape, const Plan& plan, bool resumes) {
  const int m = shape.micro_batches;
  const bool early = updates_behind_backward(plan);
  std::vector<Phase> phases;
  const auto add = [&](PhaseKind kind, bool pending, bool stored) {
    Phase phase{kind, m, pending, stored || resumes, stored};
    phase.early_states_stored = early && (stored || resumes);
    phase.early_weights_stored = early && stored;
    phase.early = early && kind == PhaseKind::train;
    phases.push_back(phase);
  };
  phases.push_back({resumes ? PhaseKind::restore : PhaseKind::load, m});
  add(PhaseKind::evaluate, false, false);
  for (const bool stored : {false, true})
    for (const bool pending : {false, true}) add(PhaseKind::train, pending, stored);
  for (const bool stored : {false, true}) add(PhaseKind::flush, true, stored);
  add(PhaseKind::evaluate, false, true);
  if (!early || !plan.undoable) return phases;
  for (const bool odd : {false, true}) {
    // Steps that wait use the same buffers, those of updates before forward among them.
    Phase waits = waiting_phase(m, odd);
    phases.push_back(waits);
    waits.early = true;
    phases.push_back(waits);
    phases.push_back(redo_phase(m, odd));
  }
  return phases;
}

}  // namespace sluice::plan
