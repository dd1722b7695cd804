#include "tests/unit/plan/reference_plan.h"

#include <gtest/gtest.h>

#include "runtime/plan/buffer_names.h"

namespace sluice::plan {
namespace {

// What lasting memory holds before anything is loaded.
Page nothing_yet(uint64_t garbage) { return {~garbage}; }

void expect_no_garbage(const LastingMemory& one, const LastingMemory& other, uint64_t garbage) {
  for (size_t b = 0; b < one.size(); ++b)
    for (size_t p = 0; p < one[b].size(); ++p)
      ASSERT_TRUE(one[b][p] == nothing_yet(garbage) || one[b][p] == other[b][p]) << "depends on garbage";
}

}  // namespace

ReferencePlan::ReferencePlan(const RandomJob& job_in, Planned& planned_in)
    : job(job_in), planned(planned_in), asked_(planned_in) {
  for (uint64_t garbage = 0; garbage < kGarbages; ++garbage)
    for (const Buffer& buffer : planned.layout.buffers())
      memory_[garbage].emplace_back(buffer.persistent ? static_cast<size_t>(buffer.bytes / kPageBytes) : 0,
                                    nothing_yet(garbage));
  train();
  Result<Homes> learnt = homes_of(planned.schedules, planned.layout.buffers(), job.shape, planned.plan);
  if (!learnt.ok()) ADD_FAILURE() << learnt.error().message;
  if (learnt.ok()) homes = std::move(learnt.value());
  find_trained();
}

Result<void> ReferencePlan::verify(const Phase& phase) const {
  return plan::verify(planned.schedules.at(phase), planned.layout.buffers(), planned.memory.peak, job.shape,
                      planned.plan, phase, homes);
}

Stage ReferencePlan::stage(const Phase& phase) const {
  return {planned.layout.buffers(), planned.memory.peak, job.shape, phase, phases.at(phase).settings};
}

// --- training --------------------------------------------------------------------------------------------------------

// Updated at once, clipped, waiting and flushed, as far as the plan knows the difference.
void ReferencePlan::train() {
  progress_.states_stored = progress_.early_states_stored = job.request.resumes;
  run({job.request.resumes ? PhaseKind::restore : PhaseKind::load, job.shape.micro_batches}, {});
  evaluate();
  step(/*clipped=*/false, /*speculates=*/true);
  // What ends after one step.
  const Progress after_one = progress_;
  const auto memory = memory_;
  flush();
  progress_ = after_one;
  memory_ = memory;
  step(/*clipped=*/true, /*speculates=*/true);
  step(/*clipped=*/true, /*speculates=*/false);
  step(/*clipped=*/true, /*speculates=*/true);
  step(/*clipped=*/false, /*speculates=*/false);
  flush();
  evaluate();
  step(/*clipped=*/false, /*speculates=*/true);
  step(/*clipped=*/false, /*speculates=*/true);
  flush();
}

Phase ReferencePlan::phase_of(PhaseKind kind) const {
  const bool updates = kind != PhaseKind::evaluate;
  Phase phase{kind, job.shape.micro_batches, updates && progress_.pending, progress_.states_stored,
              progress_.weights_stored};
  phase.early_pending = updates && progress_.early_pending;
  phase.early_states_stored = progress_.early_states_stored;
  phase.early_weights_stored = progress_.early_weights_stored;
  phase.odd = progress_.odd;
  return phase;
}

void ReferencePlan::step(bool clipped, bool speculates) {
  ++steps_;
  const uint64_t unclipped = mix(steps_, 0), settings = mix(steps_, clipped && job.request.clips ? 1 : 0);
  const bool has_early = updates_behind_backward(planned.plan), undoable = planned.plan.undoable;
  Phase phase = phase_of(PhaseKind::train);
  phase.early = has_early && (!undoable || speculates);
  run(phase, {progress_.settings, unclipped});
  updated();
  if (phase.early && undoable) {
    if (settings != unclipped) run(phase_of(PhaseKind::redo), {progress_.settings, settings});
    progress_.odd = !progress_.odd;
  }
  if (phase.early) progress_.early_states_stored = progress_.early_weights_stored = true;
  progress_.pending = true;
  progress_.early_pending = has_early && !phase.early;
  progress_.settings = settings;
}

void ReferencePlan::flush() {
  run(phase_of(PhaseKind::flush), {progress_.settings, 0});
  updated();
}

void ReferencePlan::updated() {
  if (progress_.pending) progress_.states_stored = progress_.weights_stored = true;
  if (progress_.early_pending) progress_.early_states_stored = progress_.early_weights_stored = true;
  progress_.pending = progress_.early_pending = false;
}

void ReferencePlan::run(const Phase& phase, const Settings& settings) {
  const Schedule& schedule = asked_.schedule(phase, job.shape, job.request);
  Before before{settings, memory_, {}};
  Random unused(0);
  for (uint64_t garbage = 0; garbage < kGarbages; ++garbage) {
    RunResult& result = before.expected[garbage];
    result = Interpreter(schedule, {planned.layout.buffers(), planned.memory.peak, job.shape, phase, settings})
                 .run(memory_[garbage], garbage, {}, unused);
    ASSERT_EQ(result.failure, "") << schedule.name;
    memory_[garbage] = result.lasting;
    EXPECT_EQ(result.observed, before.expected[0].observed) << schedule.name << " depends on garbage";
    expect_no_garbage(memory_[garbage], memory_[0], garbage);
  }
  if (phase.kind == PhaseKind::train || phase.kind == PhaseKind::evaluate)
    observed.push_back(before.expected[0].observed);
  phases.emplace(phase, std::move(before));
}

// --- what was trained
// --------------------------------------------------------------------------------------------------

const Pages& ReferencePlan::pages_of(const BufferName& buffer) const {
  return memory_[0][static_cast<size_t>(planned.layout.find(buffer))];
}

void ReferencePlan::find_trained() {
  for (int g = 0; g < static_cast<int>(job.shape.groups.size()); ++g) {
    const GroupShape& group = job.shape.groups[static_cast<size_t>(g)];
    const GroupPlan& where = planned.plan.groups[static_cast<size_t>(g)];
    if (!group.trainable) continue;
    const int set = newest_set(planned.plan, g, progress_.odd);
    trained["weights of group " + std::to_string(g)] =
        pages_of(lives_on_device(where)        ? device_weights_name(g, set)
                 : where.weights == Tier::disk ? weights_extent_name(g, set)
                                               : host_weights_name(where, group, g, set));
    trained["states of group " + std::to_string(g)] = states_of(g, set);
  }
}

Pages ReferencePlan::states_of(int g, int set) const {
  const GroupPlan& where = planned.plan.groups[static_cast<size_t>(g)];
  if (where.states != Tier::disk) return pages_of(states_name(where, g, set));
  Pages states;
  const int64_t elements = job.shape.groups[static_cast<size_t>(g)].elements;
  for (int64_t begin = 0, chunk = 0; begin < elements; begin += planned.plan.chunk_elements, ++chunk) {
    const Pages& each = pages_of(states_extent_name(g, chunk, set));
    states.insert(states.end(), each.begin(), each.end());
  }
  return states;
}

}  // namespace sluice::plan
