#include "runtime/plan/verify.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/unit/plan/toy_job.h"

namespace sluice::plan {
namespace {

struct Case {
  Planned planned;
  Schedule schedule;
};

Case steady_on_disk() {
  const JobShape job = toy_job(2);
  PlanRequest request = toy_request(job);
  request.memory = DeviceMemory::separate;
  request.weights = request.states = request.gradients = Tier::disk;
  request.activations = SlotFate::disk;
  Case c{make_plan(job, request), {}};
  c.schedule = c.planned.schedules.at({PhaseKind::train, 2, true, true, true});
  return c;
}

TEST(Verify, RejectsABufferOutsideItsTier) {
  Case c = steady_on_disk();
  auto capacity = c.planned.memory.peak;
  capacity[static_cast<size_t>(Tier::host)] = Bytes{4096};
  EXPECT_FALSE(verify(c.schedule, c.planned.layout.buffers(), capacity).ok());
}

TEST(Verify, RejectsAnOperandPastTheEndOfItsBuffer) {
  Case c = steady_on_disk();
  c.schedule.ops[3].operands[0].bytes += 1 << 20;
  EXPECT_FALSE(verify(c.schedule, c.planned.layout.buffers(), c.planned.memory.peak).ok());
}

TEST(Verify, RejectsAWaitForALaterOp) {
  Case c = steady_on_disk();
  c.schedule.ops[5].after.push_back(6);
  EXPECT_FALSE(verify(c.schedule, c.planned.layout.buffers(), c.planned.memory.peak).ok());
}

TEST(Verify, RejectsTwoBuffersPlacedOnTheSameBytes) {
  Case c = steady_on_disk();
  std::vector<Buffer> buffers = c.planned.layout.buffers();
  Buffer* staging = nullptr;
  Buffer* weights = nullptr;
  for (Buffer& buffer : buffers) {
    if (buffer.name == "states.ring[0]") staging = &buffer;
    if (buffer.name == "states.ring[1]") weights = &buffer;
  }
  ASSERT_TRUE(staging != nullptr && weights != nullptr);
  staging->offset = weights->offset;
  EXPECT_FALSE(verify(c.schedule, buffers, c.planned.memory.peak).ok());
}

// Dropping a dependency is harmless only when another path orders the same two ops.
TEST(Verify, RejectsEveryDroppedDependencyThatNothingElseImplies) {
  Case c = steady_on_disk();
  int rejected = 0, dropped = 0;
  for (size_t id = 0; id < c.schedule.ops.size(); ++id) {
    for (size_t i = 0; i < c.schedule.ops[id].after.size(); ++i) {
      Schedule mutated = c.schedule;
      auto& after = mutated.ops[id].after;
      after.erase(after.begin() + static_cast<std::ptrdiff_t>(i));
      ++dropped;
      rejected += !verify(mutated, c.planned.layout.buffers(), c.planned.memory.peak).ok();
    }
  }
  EXPECT_GT(rejected, dropped / 4) << "of " << dropped;
}

}  // namespace
}  // namespace sluice::plan
