#include <gtest/gtest.h>

#include <map>

#include "runtime/plan/simulate.h"
#include "runtime/plan/verify.h"
#include "tests/unit/plan/toy_job.h"

namespace sluice::plan {
namespace {

MachineProfile slow_disk() {
  MachineProfile profile{{1e9}, {1e9}, {1e8}, {1e8}, {1e10}};
  share_drive(profile, {1.5e8});
  return profile;
}

int count(const Schedule& schedule, OpKind kind) {
  int n = 0;
  for (const Op& op : schedule.ops) n += op.kind == kind;
  return n;
}

TEST(Schedule, RunsEveryMicroBatchThroughABlockBeforeTheNextBlockIsFetched) {
  const JobShape job = toy_job(4);
  PlanRequest request = toy_request(job);
  request.weights = request.states = request.gradients = Tier::disk;
  const Planned planned = make_plan(job, request);
  const Schedule& steady = planned.schedules.at({PhaseKind::train, 4, true, true, true});
  // Weights leave the disk once for update and forward, and once backward, however many micro-batches: 5 groups
  // forward, and backward those that the ring no longer holds.
  int weight_reads = 0;
  for (const Op& op : steady.ops)
    if (op.kind == OpKind::read)
      for (const Operand& operand : op.operands)
        weight_reads += operand.role == Role::source && planned.layout.at(operand.buffer).tag == Tag::weights;
  EXPECT_GE(weight_reads, 5);
  EXPECT_LE(weight_reads, 10);
  int previous_block = 0;
  for (const Op& op : steady.ops) {
    if (op.kind != OpKind::forward) continue;
    EXPECT_GE(op.block, previous_block);
    previous_block = op.block;
  }
  EXPECT_EQ(count(steady, OpKind::forward), 4 * 4);
  EXPECT_EQ(count(steady, OpKind::backward), 4 * 4);
  EXPECT_EQ(count(steady, OpKind::loss), 4);
}

TEST(Schedule, UpdatesEveryTrainedElementExactlyOncePerStep) {
  const JobShape job = toy_job(1);
  PlanRequest request = toy_request(job);
  request.states = Tier::disk;
  const Planned planned = make_plan(job, request);
  for (const auto& [phase, schedule] : planned.schedules) {
    if (!phase.pending) continue;
    std::map<int, int64_t> updated;
    for (const Op& op : schedule.ops)
      if (op.kind == OpKind::update) {
        EXPECT_EQ(op.begin, updated[op.group]) << "chunks follow one another";
        updated[op.group] = op.end;
      }
    for (size_t g = 0; g < job.groups.size(); ++g) EXPECT_EQ(updated[static_cast<int>(g)], job.groups[g].elements);
  }
}

TEST(Schedule, AccumulatesATiedGradientFromHeadThenEmbedding) {
  const JobShape job = toy_job(2);
  const Planned planned = make_plan(job, toy_request(job));
  const Schedule& steady = planned.schedules.at({PhaseKind::train, 2, true, true, true});
  bool begun = false;
  for (const Op& op : steady.ops) {
    if (op.kind != OpKind::loss && op.kind != OpKind::backward) continue;
    const auto& groups = job.blocks[static_cast<size_t>(op.block)].groups;
    for (size_t i = 0; i < groups.size(); ++i)
      if (groups[i] == 0) {
        EXPECT_EQ(op.accumulate[i] != 0, begun);
        begun = true;
      }
  }
  EXPECT_TRUE(begun);
}

TEST(Schedule, LeavesFrozenBlocksBeforeTheFirstAdapterWithoutBackward) {
  const JobShape job = toy_job(1, /*adapter=*/true);
  const Planned planned = make_plan(job, toy_request(job));
  const Schedule& steady = planned.schedules.at({PhaseKind::train, 1, true, true, true});
  for (const Op& op : steady.ops) {
    if (op.kind != OpKind::backward) continue;
    EXPECT_GE(op.block, 1);
    bool wants_input_gradient = false;
    for (const Operand& operand : op.operands) wants_input_gradient |= operand.role == Role::input_gradient;
    EXPECT_EQ(wants_input_gradient, op.block > 1);
  }
  EXPECT_EQ(count(steady, OpKind::norm), 3);
}

TEST(Schedule, SlotFatesMoveExactlyTheirBytes) {
  const JobShape job = toy_job(2);
  PlanRequest request = toy_request(job);
  request.memory = DeviceMemory::separate;
  request.activations = SlotFate::host;
  const Planned host = make_plan(job, request);
  request.activations = SlotFate::disk;
  const Planned disk = make_plan(job, request);
  request.activations = SlotFate::recompute;
  const Planned recompute = make_plan(job, request);
  const Phase steady{PhaseKind::train, 2, true, true, true};
  const auto activation_bytes = [&](const Planned& planned, OpKind kind) {
    int64_t bytes = 0;
    for (const Op& op : planned.schedules.at(steady).ops)
      if (op.kind == kind && op.micro_batch != kNone) bytes += op.bytes;
    return bytes;
  };
  // Three layers of two slots, three boundaries before layers, two micro-batches.
  const int64_t each_way = 2 * (3 * (4096 + 16384) + 3 * job.boundary_bytes.count);
  EXPECT_EQ(activation_bytes(host, OpKind::copy_to_host), each_way);
  EXPECT_EQ(activation_bytes(host, OpKind::copy_to_device), each_way);
  EXPECT_EQ(activation_bytes(disk, OpKind::write), each_way);
  EXPECT_EQ(activation_bytes(disk, OpKind::read), each_way);
  EXPECT_EQ(activation_bytes(recompute, OpKind::copy_to_host), 0);
  const auto flops = [&](const Planned& planned) {
    return work_of(planned.schedules.at(steady))[static_cast<size_t>(Lane::compute)].flops;
  };
  EXPECT_DOUBLE_EQ(flops(recompute) - flops(host), 2 * 3 * 6e8);
}

TEST(Simulate, TakesAtLeastTheBoundAndNoMoreThanEverythingInTurn) {
  const JobShape job = toy_job(2);
  PlanRequest request = toy_request(job);
  request.weights = request.states = request.gradients = Tier::disk;
  const Planned planned = make_plan(job, request);
  for (const auto& [phase, schedule] : planned.schedules) {
    if (schedule.ops.empty()) continue;
    const Simulation simulation = simulate(schedule, planned.layout.buffers(), slow_disk());
    double in_turn = 0;
    for (const Slice& op : simulation.ops) in_turn += op.end.count - op.begin.count;
    EXPECT_LE(simulation.time.count, in_turn * (1 + 1e-9)) << schedule.name;
    double longest_lane = 0;
    for (size_t lane = 0; lane < kLaneCount; ++lane) {
      double busy = 0;
      for (size_t id = 0; id < schedule.ops.size(); ++id)
        if (static_cast<size_t>(schedule.ops[id].lane) == lane)
          busy += simulation.ops[id].end.count - simulation.ops[id].begin.count;
      longest_lane = std::max(longest_lane, busy);
    }
    EXPECT_GE(simulation.time.count, longest_lane * (1 - 1e-9)) << schedule.name;
  }
}

TEST(Simulate, BindsTheSharedDriveByBothDirections) {
  std::array<LaneWork, kLaneCount> work{};
  work[static_cast<size_t>(Lane::read)].bytes = 100'000'000;
  work[static_cast<size_t>(Lane::write)].bytes = 80'000'000;
  const Bound bound = bound_of(work, slow_disk());
  EXPECT_EQ(bound.lane, Lane::read);
  // 80 MB each way at half of 150 MB/s, then the last 20 MB read at 100 MB/s.
  EXPECT_NEAR(bound.time.count, 80e6 / 75e6 * 1e6 + 0.2e6, 1);
}

}  // namespace
}  // namespace sluice::plan
