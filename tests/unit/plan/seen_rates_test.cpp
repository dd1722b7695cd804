#include "runtime/plan/seen_rates.h"

#include <gtest/gtest.h>

namespace sluice::plan {
namespace {

constexpr auto kCompute = static_cast<size_t>(Lane::compute), kRead = static_cast<size_t>(Lane::read),
               kWrite = static_cast<size_t>(Lane::write);
using Work = std::array<LaneWork, kLaneCount>;
using Busy = std::array<Microseconds, kLaneCount>;

MachineProfile profile() {
  MachineProfile profile;
  profile.disk_read = {1e9};
  profile.disk_write = {2e9};
  return profile;
}
Work reads(int64_t bytes) {
  Work work{};
  work[kRead].bytes = bytes;
  return work;
}
Busy reading_for(double us) {
  Busy busy{};
  busy[kRead] = {us};
  return busy;
}

TEST(SeenRates, AStepAtTheMeasuredPaceHasTheMeasuredBound) {
  SeenRates rates(profile());
  const Bound bound = rates.bound_of_step(reads(1'000'000), reading_for(1500), {2000});
  EXPECT_DOUBLE_EQ(bound.time.count, 1000);
  EXPECT_EQ(bound.lane, Lane::read);
}

TEST(SeenRates, AFasterDriveCountsFromThenOn) {
  SeenRates rates(profile());
  EXPECT_DOUBLE_EQ(rates.bound_of_step(reads(1'000'000), reading_for(400), {500}).time.count, 400);
  EXPECT_DOUBLE_EQ(rates.bound_of_step(reads(1'000'000), reading_for(1500), {2000}).time.count, 400);
}

TEST(SeenRates, FasterComputeCountsFromThenOn) {
  SeenRates rates(profile());
  Work work{};
  work[kCompute].time = {1000};
  Busy busy{};
  busy[kCompute] = {500};
  EXPECT_DOUBLE_EQ(rates.bound_of_step(work, busy, {600}).time.count, 500);
  busy[kCompute] = {900};
  EXPECT_DOUBLE_EQ(rates.bound_of_step(work, busy, {1000}).time.count, 500);
}

TEST(SeenRates, SharingThatCostLessThanMeasuredIsLearnt) {
  MachineProfile sharing = profile();
  share_drive(sharing, {1e9});  // half a GB/s each way at once
  SeenRates rates(sharing);
  Work work = reads(1'000'000);
  work[kWrite].bytes = 1'000'000;
  Busy busy{};
  busy[kRead] = {1100};
  busy[kWrite] = {1100};
  const Bound bound = rates.bound_of_step(work, busy, {1100});
  EXPECT_LE(bound.time.count, 1100);
  EXPECT_GE(bound.time.count, 1000);
  EXPECT_DOUBLE_EQ(rates.bound_of_step(work, busy, {5000}).time.count, bound.time.count);
}

TEST(SeenRates, ARateThatWasNotMeasuredStaysUnknown) {
  SeenRates rates({});
  EXPECT_DOUBLE_EQ(rates.bound_of_step(reads(1'000'000), reading_for(400), {500}).time.count, 0);
}

TEST(SeenRates, BusyTimesCountOverlapsOnceAndNoGaps) {
  Schedule schedule;
  for (Lane lane : {Lane::read, Lane::read, Lane::compute, Lane::read}) {
    Op op;
    op.lane = lane;
    schedule.ops.push_back(op);
  }
  const auto busy = busy_times(schedule, {{{5}, {10}}, {{0}, {6}}, {{0}, {3}}, {{20}, {21}}});
  EXPECT_DOUBLE_EQ(busy[kRead].count, 11);
  EXPECT_DOUBLE_EQ(busy[kCompute].count, 3);
}

}  // namespace
}  // namespace sluice::plan
