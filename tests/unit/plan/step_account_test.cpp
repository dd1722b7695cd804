#include "runtime/plan/step_account.h"

#include <gtest/gtest.h>

#include "runtime/plan/live_memory.h"
#include "runtime/plan/seen_rates.h"
#include "tests/unit/plan/toy_job.h"

namespace sluice::plan {
namespace {

constexpr auto kCompute = static_cast<size_t>(Lane::compute), kRead = static_cast<size_t>(Lane::read),
               kH2d = static_cast<size_t>(Lane::h2d), kOptim = static_cast<size_t>(Lane::optim);

Op op_of(Lane lane, int block, OpIds after, int64_t bytes = 0) {
  Op op;
  op.lane = lane;
  op.block = block;
  op.after = std::move(after);
  op.bytes = bytes;
  return op;
}

JobShape two_blocks() {
  JobShape shape;
  shape.groups.resize(2);
  shape.blocks.resize(2);
  shape.blocks[0].groups = {0};
  shape.blocks[1].groups = {0, 1};
  return shape;
}

TEST(StepAccount, AStallCountsAgainstTheLaneThatRanMeanwhile) {
  // A read of block 0, its copy, its compute: compute waits for both in turn, then hands over late.
  Schedule schedule;
  schedule.ops = {op_of(Lane::read, 0, {}, 100), op_of(Lane::h2d, 0, {0}, 100), op_of(Lane::compute, 0, {1}),
                  op_of(Lane::compute, 1, {})};
  schedule.ops[2].flops = 7;
  const StepAccount account =
      account_of(schedule, {{{1}, {11}}, {{12}, {15}}, {{17}, {30}}, {{30}, {35}}}, two_blocks());
  EXPECT_DOUBLE_EQ(account.time.count, 35);
  const LaneTime& compute = account.lanes[kCompute];
  EXPECT_DOUBLE_EQ(compute.busy.count, 18);
  EXPECT_DOUBLE_EQ(compute.stalled_on[kRead].count, 10);
  EXPECT_DOUBLE_EQ(compute.stalled_on[kH2d].count, 3);
  EXPECT_DOUBLE_EQ(compute.handover.count, 1 + 1 + 2);
  EXPECT_DOUBLE_EQ(compute.flops, 7);
  EXPECT_DOUBLE_EQ(account.done[kCompute].count, 0);
  EXPECT_DOUBLE_EQ(account.done[kRead].count, 24);
  EXPECT_DOUBLE_EQ(account.lanes[kH2d].stalled_on[kRead].count, 10);
  EXPECT_DOUBLE_EQ(account.blocks[0][kCompute].stalled().count, 17);
  EXPECT_DOUBLE_EQ(account.blocks[1][kCompute].stalled().count, 0);
  EXPECT_DOUBLE_EQ(account.blocks[1][kCompute].busy.count, 5);
  EXPECT_EQ(account.blocks[0][kRead].bytes, 100);
}

TEST(StepAccount, AnOpBehindABusyLaneWaitsForWhatThatLaneDoes) {
  // Compute waits for block 1's read, which waits for block 0's.
  Schedule schedule;
  schedule.ops = {op_of(Lane::read, 0, {}), op_of(Lane::read, 1, {}), op_of(Lane::compute, 1, {1})};
  const StepAccount account = account_of(schedule, {{{0}, {10}}, {{10}, {14}}, {{14}, {20}}}, two_blocks());
  EXPECT_DOUBLE_EQ(account.blocks[1][kCompute].stalled_on[kRead].count, 14);
}

TEST(StepAccount, TransfersInFlightTogetherAreBusyOnce) {
  Schedule schedule;
  schedule.ops = {op_of(Lane::read, 0, {}, 5), op_of(Lane::read, 1, {}, 6), op_of(Lane::read, 1, {}, 7)};
  const StepAccount account = account_of(schedule, {{{0}, {10}}, {{2}, {12}}, {{3}, {8}}}, two_blocks());
  EXPECT_DOUBLE_EQ(account.lanes[kRead].busy.count, 12);
  EXPECT_DOUBLE_EQ(account.blocks[0][kRead].busy.count, 10);
  EXPECT_DOUBLE_EQ(account.blocks[1][kRead].busy.count, 2);
  EXPECT_EQ(account.lanes[kRead].bytes, 18);
}

TEST(StepAccount, ABlockWhoseTransfersRanBesideAnothersDidSomething) {
  Schedule schedule;
  schedule.ops = {op_of(Lane::read, 0, {}, 5), op_of(Lane::read, 1, {}, 6)};
  const StepAccount account = account_of(schedule, {{{0}, {10}}, {{2}, {8}}}, two_blocks());
  EXPECT_DOUBLE_EQ(account.blocks[1][kRead].busy.count, 0);
  EXPECT_TRUE(account.blocks[1][kRead].did_something());
  EXPECT_FALSE(account.blocks[1][kH2d].did_something());
}

TEST(StepAccount, AGroupsUpdateCountsForItsFirstBlockAndOpsOfNoBlockApart) {
  Schedule schedule;
  schedule.ops = {op_of(Lane::optim, kNone, {}), op_of(Lane::optim, kNone, {}), op_of(Lane::optim, kNone, {})};
  schedule.ops[0].group = 0;
  schedule.ops[1].group = 1;
  const StepAccount account = account_of(schedule, {{{0}, {1}}, {{1}, {3}}, {{3}, {7}}}, two_blocks());
  EXPECT_DOUBLE_EQ(account.blocks[0][kOptim].busy.count, 1);
  EXPECT_DOUBLE_EQ(account.blocks[1][kOptim].busy.count, 2);
  EXPECT_DOUBLE_EQ(account.blocks[2][kOptim].busy.count, 4);
}

// Of a whole planned step, from disk.
struct Planning {
  JobShape shape = toy_job(2);
  PlanRequest request = toy_request(shape);
  Planned planned;
  const Schedule& steady() { return planned.schedule(steady_phase(planned.plan, 2), shape, request); }
  Planning() {
    request.memory = DeviceMemory::separate;
    request.weights = request.states = request.gradients = Tier::disk;
    planned = make_plan(shape, request);
  }
};

TEST(StepAccount, EveryMomentOfEveryLaneIsAccountedFor) {
  Planning job;
  const Schedule& schedule = job.steady();
  const std::vector<Slice>& ops = job.planned.steady.ops;
  const StepAccount account = account_of(schedule, ops, job.shape);
  const auto busy = busy_times(schedule, ops);
  const auto work = work_of(schedule);
  double stalled = 0;
  for (size_t lane = 0; lane < kLaneCount; ++lane) {
    const LaneTime& time = account.lanes[lane];
    EXPECT_NEAR(time.busy.count, busy[lane].count, 1e-6);
    EXPECT_NEAR(time.busy.count + time.stalled().count + account.done[lane].count, job.planned.steady.time.count, 1e-6);
    EXPECT_EQ(time.bytes, work[lane].bytes);
    EXPECT_DOUBLE_EQ(time.flops, work[lane].flops);
    // In a simulation nothing is handed over late.
    EXPECT_NEAR(time.handover.count, 0, 1e-6);
    stalled += time.stalled().count;
  }
  EXPECT_GT(stalled, 0);
}

TEST(StepAccount, StepsAddUpAndHaveAMean) {
  Planning job;
  const StepAccount one = account_of(job.steady(), job.planned.steady.ops, job.shape);
  StepAccount two = one;
  two += one;
  EXPECT_DOUBLE_EQ(two.time.count, 2 * one.time.count);
  EXPECT_EQ(two.lanes[kRead].bytes, 2 * one.lanes[kRead].bytes);
  EXPECT_DOUBLE_EQ(two.blocks[1][kCompute].busy.count, 2 * one.blocks[1][kCompute].busy.count);
  two /= 2;
  EXPECT_DOUBLE_EQ(two.done[kRead].count, one.done[kRead].count);
  EXPECT_EQ(two.blocks[1][kRead].bytes, one.blocks[1][kRead].bytes);
}

TEST(LiveMemory, ABufferIsInUseFromItsFillingToItsLastReader) {
  std::vector<Buffer> buffers(2);
  buffers[0] = {Tier::host, Tag::staging, 0, 4096, 4096, false, BufferName("passing")};
  buffers[1] = {Tier::host, Tag::weights, 4096, 8192, 8192, true, BufferName("lasting")};
  Schedule schedule;
  const auto add = [&](Access access, int64_t offset) {
    Op op;
    op.operands = {{Role::source, access, 0, 0, offset, 2048}};
    schedule.ops.push_back(op);
  };
  add(Access::write, 0);
  add(Access::write, 2048);  // the other half of the same filling
  add(Access::read, 0);
  add(Access::write, 0);  // a new one
  add(Access::read, 0);
  const LiveMemory live =
      live_memory(schedule, {{{10}, {11}}, {{13}, {14}}, {{15}, {19}}, {{50}, {55}}, {{60}, {100}}}, buffers, 10);
  const auto host = static_cast<size_t>(Tier::host);
  EXPECT_EQ(live[host][static_cast<size_t>(Tag::staging)],
            (std::vector<int64_t>{0, 4096, 0, 0, 0, 4096, 4096, 4096, 4096, 4096}));
  EXPECT_EQ(live[host][static_cast<size_t>(Tag::weights)], std::vector<int64_t>(10, 8192));
}

TEST(LiveMemory, IsNeverMoreThanThePlanHasOfATag) {
  Planning job;
  const LiveMemory live = live_memory(job.steady(), job.planned.steady.ops, job.planned.layout.buffers(), 200);
  int64_t most = 0;
  for (size_t tier = 0; tier < kTierCount; ++tier)
    for (size_t tag = 0; tag < kTagCount; ++tag)
      for (const int64_t bytes : live[tier][tag]) {
        EXPECT_LE(bytes, job.planned.memory.by_tag[tier][tag].count);
        most = std::max(most, bytes);
      }
  EXPECT_GT(most, 0);
}

}  // namespace
}  // namespace sluice::plan
