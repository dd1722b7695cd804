// Phases and schedules of plans that update groups behind backward.
#include <gtest/gtest.h>

#include <deque>
#include <set>

#include "runtime/plan/buffer_names.h"
#include "runtime/plan/simulate.h"
#include "runtime/plan/verify.h"
#include "tests/unit/plan/progress.h"
#include "tests/unit/plan/toy_job.h"

namespace sluice::plan {
namespace {

PlanRequest early_request(const JobShape& job, bool clips) {
  PlanRequest request = toy_request(job);
  request.update = UpdateTime::behind_backward;
  request.clips = clips;
  return request;
}

// Every phase that the job can come to, whatever it decides at each step.
std::set<Phase> reachable(const JobShape& job, const Plan& plan, bool resumes) {
  Progress start(plan);
  start.ended(start.next(resumes ? PhaseKind::restore : PhaseKind::load, 1));
  std::set<Phase> seen;
  std::deque<Progress> waiting = {start};
  while (!waiting.empty()) {
    const Progress at = waiting.front();
    waiting.pop_front();
    std::vector<Phase> next = {at.next(at.pending() ? PhaseKind::flush : PhaseKind::evaluate, job.micro_batches)};
    for (const Early early : {Early::wait, Early::update})
      for (const int micro_batches : {1, job.micro_batches})
        next.push_back(at.next(PhaseKind::train, micro_batches, early));
    for (const Phase& phase : next) {
      if (!seen.insert(phase).second) continue;
      if (phase.early && plan.undoable) seen.insert(at.redo_of(phase, job.micro_batches));
      waiting.push_back(at);
      waiting.back().ended(phase);
    }
  }
  return seen;
}

Plan early_plan(const JobShape& job, const GroupPlan& where, bool clips) {
  Plan plan;
  plan.undoable = clips;
  plan.chunk_elements = 4096;
  for (const GroupShape& group : job.groups) {
    plan.groups.push_back(where);
    if (!group.trainable) plan.groups.back().update = UpdateTime::before_forward;
  }
  for (const BlockShape& block : job.blocks)
    plan.blocks.push_back({SlotFate::keep, std::vector<SlotFate>(block.slots.size(), SlotFate::keep)});
  return plan;
}
void make_every_other_late(Plan& plan) {
  for (size_t g = 0; g < plan.groups.size(); g += 2) plan.groups[g].update = UpdateTime::before_forward;
}

Planned lowered(const JobShape& job, const PlanRequest& request, Plan plan) {
  Planned planned;
  planned.plan = std::move(plan);
  for (const Phase& phase : phases_of(job, planned.plan, request.resumes))
    planned.schedules.emplace(phase, build_schedule(job, planned.plan, phase, request.source_low_bits, planned.layout));
  planned.layout.freeze();
  planned.memory = planned.layout.memory();
  return planned;
}

// schedule() throws when a proof fails; the frozen layout aborts when it lacks a buffer.
void expect_every_phase_proven(const JobShape& job, const PlanRequest& request, const Plan& plan) {
  Planned planned = lowered(job, request, plan);
  for (const auto& [phase, schedule] : planned.schedules)
    EXPECT_TRUE(verify(schedule, planned.layout.buffers(), planned.memory.peak).ok()) << schedule.name;
  for (const Phase& phase : reachable(job, planned.plan, request.resumes))
    EXPECT_FALSE(planned.schedule(phase, job, request).name.empty());
}

TEST(EarlyUpdate, EveryPhaseThatAJobMayRunIsProvenInTheArenasOfThoseForeseen) {
  for (const bool adapter : {false, true})
    for (const DeviceMemory memory : {DeviceMemory::unified, DeviceMemory::separate})
      for (const Tier weights : {Tier::device, Tier::host, Tier::disk})
        for (const Tier states : {Tier::host, Tier::disk})
          for (const Tier gradients : {Tier::host, Tier::disk})
            for (const bool resumes : {false, true})
              for (const bool clips : {false, true}) {
                if (memory == DeviceMemory::unified && weights == Tier::device) continue;
                const JobShape job = toy_job(2, adapter);
                PlanRequest request = early_request(job, clips);
                request.resumes = resumes;
                request.source_low_bits[0] = 1;
                Plan plan = early_plan(job, {weights, states, gradients, UpdateTime::behind_backward}, clips);
                plan.memory = memory;
                expect_every_phase_proven(job, request, plan);
                make_every_other_late(plan);
                expect_every_phase_proven(job, request, plan);
              }
}

TEST(EarlyUpdate, TheSteadyPhaseIsThatOfLaterSteps) {
  const JobShape job = toy_job(2);
  for (const UpdateTime update : {UpdateTime::before_forward, UpdateTime::behind_backward}) {
    PlanRequest request = early_request(job, /*clips=*/true);
    request.update = update;
    const Plan plan = make_plan(job, request).plan;
    Progress progress(plan);
    for (int step = 0; step < 4; ++step) progress.ended(progress.next(PhaseKind::train, 2, Early::update));
    EXPECT_EQ(progress.next(PhaseKind::train, 2, Early::update), steady_phase(plan, 2));
  }
}

bool is_second(const Layout& layout, const Operand& operand) { return is_second_set(layout.at(operand.buffer)); }

TEST(EarlyUpdate, AnUndoablePhaseReadsOneSetAndWritesTheOther) {
  const JobShape job = toy_job(2);
  for (const Tier home : {Tier::host, Tier::disk}) {
    PlanRequest request = early_request(job, /*clips=*/true);
    request.weights = request.states = home;
    Planned planned = make_plan(job, request);
    Phase phase = steady_phase(planned.plan, job.micro_batches);
    for (const bool odd : {false, true}) {
      phase.odd = odd;
      for (const Phase& each : {phase, redo_phase(job.micro_batches, odd)}) {
        int written = 0;
        for (const Op& op : planned.schedule(each, job, request).ops)
          for (const Operand& operand : op.operands) {
            const Buffer& buffer = planned.layout.at(operand.buffer);
            if (!buffer.persistent || (buffer.tag != Tag::weights && buffer.tag != Tag::states)) continue;
            EXPECT_EQ(is_second(planned.layout, operand), odd == (operand.access == Access::read))
                << buffer.name.text();
            written += operand.access != Access::read;
          }
        EXPECT_GE(written, static_cast<int>(2 * job.groups.size()));
      }
    }
  }
}

TEST(EarlyUpdate, WithoutClippingThereIsOneSetAndNoHomeForGradients) {
  const JobShape job = toy_job(2);
  const Planned late = make_plan(job, toy_request(job)), early = make_plan(job, early_request(job, /*clips=*/false));
  for (const Buffer& buffer : early.layout.buffers()) {
    EXPECT_FALSE(is_second_set(buffer));
    EXPECT_FALSE(buffer.persistent && buffer.tag == Tag::gradients) << buffer.name.text();
  }
  EXPECT_LT(early.memory.peak[1], late.memory.peak[1]);
}

TEST(EarlyUpdate, EveryTrainedElementIsUpdatedOnceBehindItsNorm) {
  const JobShape job = toy_job(2);
  Planned planned = make_plan(job, early_request(job, /*clips=*/true));
  const Phase phase = steady_phase(planned.plan, job.micro_batches);
  std::map<int, int64_t> updated;
  std::set<int> normed;
  for (const Op& op : planned.schedules.at(phase).ops) {
    if (op.kind == OpKind::norm) normed.insert(op.group);
    if (op.kind != OpKind::update) continue;
    EXPECT_TRUE(op.early && normed.contains(op.group));
    EXPECT_EQ(op.begin, updated[op.group]);
    updated[op.group] = op.end;
  }
  for (size_t g = 0; g < job.groups.size(); ++g) EXPECT_EQ(updated[static_cast<int>(g)], job.groups[g].elements);
}

// A layer's backward takes 40 ms, its forward 20; the disk 4.5 ms for its weights and 22.5 for its states, each way.
// What the next layer's backward needs must not queue behind states that wait for a gradient, although their ring is
// short.
TEST(EarlyUpdate, UpdatesHideBehindTheRestOfBackward) {
  const JobShape job = toy_job(1, /*adapter=*/false, /*layers=*/40);
  PlanRequest request = early_request(job, /*clips=*/true);
  for (const SlotFate fate : {SlotFate::keep, SlotFate::disk}) {
    Plan plan = early_plan(job, {Tier::disk, Tier::disk, Tier::disk, UpdateTime::behind_backward}, /*clips=*/true);
    plan.chunk_ring = 2;
    for (BlockPlan& block : plan.blocks) std::fill(block.slots.begin(), block.slots.end(), fate);
    Planned planned = lowered(job, request, plan);
    const Schedule& steady = planned.schedule(steady_phase(planned.plan, job.micro_batches), job, request);
    const MachineProfile machine{{1e12}, {1e12}, {4e6}, {4e6}, {1e10}};
    const Simulation simulation = simulate(steady, planned.layout.buffers(), machine);
    EXPECT_EQ(simulation.bound.lane, Lane::compute);
    EXPECT_LT(simulation.time.count / simulation.bound.time.count, 1.06) << name_of(fate);
  }
}

TEST(EarlyUpdate, GradientsOnDiskAreReadAgainOnlyToRedo) {
  const JobShape job = toy_job(2);
  Planned planned =
      lowered(job, early_request(job, /*clips=*/true),
              early_plan(job, {Tier::host, Tier::host, Tier::disk, UpdateTime::behind_backward}, /*clips=*/true));
  const auto gradient_bytes = [&](const Phase& phase, OpKind kind) {
    int64_t bytes = 0;
    for (const Op& op : planned.schedules.at(phase).ops)
      for (const Operand& operand : op.operands)
        if (op.kind == kind && planned.layout.at(operand.buffer).tier == Tier::disk) bytes += op.bytes;
    return bytes;
  };
  int64_t all = 0;
  for (const GroupShape& group : job.groups) all += group.elements * job.gradient_bytes_per_element;
  const Phase steady = steady_phase(planned.plan, job.micro_batches);
  EXPECT_EQ(gradient_bytes(steady, OpKind::write), all);
  EXPECT_EQ(gradient_bytes(redo_phase(job.micro_batches, false), OpKind::read), all);
  EXPECT_EQ(gradient_bytes(steady, OpKind::read), 0);
}

}  // namespace
}  // namespace sluice::plan
