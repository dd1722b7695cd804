#include <gtest/gtest.h>

#include <limits>

#include "runtime/core/result.h"
#include "runtime/plan/verify.h"
#include "tests/unit/plan/toy_job.h"

namespace sluice::plan {
namespace {

TEST(Planner, KeepsEverythingInRamWhenItFits) {
  const JobShape job = toy_job(1);
  const Planned planned = make_plan(job, toy_request(job));
  for (const GroupPlan& group : planned.plan.groups) {
    EXPECT_EQ(group.weights, Tier::host);
    EXPECT_EQ(group.states, Tier::host);
  }
  EXPECT_EQ(planned.memory.peak[static_cast<size_t>(Tier::disk)].count, 0);
}

TEST(Planner, IsNeverSlowerWithMoreMemory) {
  for (const bool drive_binds : {false, true}) {
    const JobShape job = toy_job(1, /*adapter=*/false, /*layers=*/60);
    PlanRequest request = toy_request(job);
    if (drive_binds) request.profile.disk_read = request.profile.disk_write = {1e6};
    const Planned all = make_plan(job, request);
    const int64_t most = all.memory.peak[static_cast<size_t>(Tier::host)].count;
    double faster = all.steady.time.count;
    for (int percent = 95; percent >= 25; percent -= 10) {
      request.caps[1] = Bytes{most * percent / 100};
      const Planned planned = make_plan(job, request);
      EXPECT_LE(planned.memory.peak[1].count, request.caps[1].count);
      EXPECT_GE(planned.steady.time.count, faster * 0.99) << percent << "% of the memory";
      faster = planned.steady.time.count;
    }
    EXPECT_EQ(drive_binds, faster > 1.5 * all.steady.time.count);
  }
}

// SmolLM2-135M's sizes with fewer layers, as measured on 2 cores and a drive of 2.7 GB/s.
JobShape smollm2_like(int layers) {
  JobShape job = toy_job(1, /*adapter=*/false, layers);
  job.tokens_max = 1024;
  job.boundary_bytes = Bytes{1024 * 576 * 2};
  for (GroupShape& group : job.groups)
    group.elements = group.name == "layer" ? 3'540'096 : group.name == "embedding" ? 28'311'552 : 576;
  for (GroupShape& group : job.groups) group.staging_bytes = MiB(2);
  for (BlockShape& block : job.blocks) {
    const bool layer = !block.slots.empty();
    block.forward_time = {layer ? 11.8e3 : 70};
    block.backward_time = {layer ? 24.4e3 : 250e3};
    for (SlotShape& slot : block.slots) slot = {slot.name, MiB(4), 1e9, {4.2e3}};
    block.workspace_bytes = [](ComputePass, std::span<const uint8_t>) { return MiB(58); };
  }
  return job;
}

// What is left of a search that no exact plan came of is the smallest plan there is: slower by half.
TEST(Planner, IsNotSlowerWithMoreMemoryWhateverItSpeculatesOn) {
  const JobShape job = smollm2_like(8);
  PlanRequest request = toy_request(job);
  request.update.reset();
  request.clips = true;
  request.chunk_elements = 1 << 20;
  request.caps[2] = GiB(64);
  request.profile = {{1e10}, {1e10}, {2.7e9}, {3.9e9}, {6.3e10}};
  share_drive(request.profile, {2.9e9});
  double fastest = std::numeric_limits<double>::infinity();
  for (int64_t mib = 360; mib <= 500; mib += 10) {
    request.caps[1] = MiB(mib);
    const Planned planned = make_plan(job, request);
    EXPECT_LE(planned.steady.time.count, 1.2 * fastest) << mib << " MiB";
    fastest = std::min(fastest, planned.steady.time.count);
  }
}

TEST(Planner, NeverPlansAboveTheCapAndNamesTheSmallestThatWorks) {
  const JobShape job = toy_job(1);
  PlanRequest request = toy_request(job);
  Bytes low{0};
  request.caps[1] = low;
  try {
    make_plan(job, request);
    FAIL() << "nothing fits zero bytes";
  } catch (const SetupError& error) {
    EXPECT_NE(std::string(error.what()).find("max_cpu"), std::string::npos) << error.what();
  }
  for (int64_t cap = 0; cap < 2'000'000; cap += 50'000) {
    request.caps[1] = Bytes{cap};
    try {
      EXPECT_LE(make_plan(job, request).memory.peak[1].count, cap);
    } catch (const SetupError&) {
    }
  }
}

TEST(Planner, AcceptsWhatItPlansForEveryForcedChoice) {
  for (const int micro_batches : {1, 3})
    for (const bool adapter : {false, true})
      for (const DeviceMemory memory : {DeviceMemory::unified, DeviceMemory::separate})
        for (const Tier weights : {Tier::device, Tier::host, Tier::disk})
          for (const Tier states : {Tier::host, Tier::disk})
            for (const Tier gradients : {Tier::host, Tier::disk})
              for (const SlotFate fate : {SlotFate::keep, SlotFate::host, SlotFate::disk, SlotFate::recompute})
                for (const UpdateTime update : {UpdateTime::before_forward, UpdateTime::behind_backward})
                  for (const bool resumes : {false, true}) {
                    const JobShape job = toy_job(micro_batches, adapter);
                    PlanRequest request = toy_request(job);
                    request.memory = memory;
                    request.weights = weights;
                    request.states = states;
                    request.gradients = gradients;
                    request.activations = fate;
                    request.resumes = resumes;
                    request.update = update;
                    request.clips = resumes == (micro_batches == 1);
                    // make_plan verifies every schedule, and throws when one is wrong.
                    const Planned planned = make_plan(job, request);
                    EXPECT_FALSE(planned.schedules.empty());
                  }
}

// Each kept checkpoint takes a set of what is trained on disk; one of a run before counts as long as it is there.
TEST(Planner, CountsTheSpaceOfCheckpointsAndHoldsItAgainstTheCap) {
  JobShape job = toy_job(2);
  PlanRequest request = toy_request(job);
  request.weights = request.states = Tier::disk;
  const Planned without = make_plan(job, request);
  const Bytes set = without.memory.trained_on_disk, arena = without.memory.peak[2];
  EXPECT_GT(set.count, 0);
  EXPECT_EQ(memory_in(Tier::disk, without.memory, job), arena);
  job.checkpoints.kept = 2;
  EXPECT_EQ(memory_in(Tier::disk, without.memory, job), arena + set * 2);
  job.checkpoints = {2, 1, set * 3};
  EXPECT_EQ(memory_in(Tier::disk, without.memory, job), arena + set * 4);
  job.checkpoints = {2, 2, set};
  EXPECT_EQ(memory_in(Tier::disk, without.memory, job), arena + set * 2);

  job.checkpoints = {1, 0, {}};
  request.caps[2] = arena + set;
  EXPECT_EQ(make_plan(job, request).memory.trained_on_disk, set);
  request.caps[2] = arena + set - Bytes{4096};
  EXPECT_THROW((void)make_plan(job, request), SetupError);
  job.checkpoints.kept = 0;
  EXPECT_EQ(make_plan(job, request).memory.trained_on_disk, set);
}

// Second sets, which undo an update, are no checkpoint's.
TEST(Planner, CountsOneSetOfWhatUpdatesBehindBackwardHaveTwice) {
  const JobShape job = toy_job(1);
  PlanRequest request = toy_request(job);
  request.weights = request.states = Tier::disk;
  const Bytes once = make_plan(job, request).memory.trained_on_disk;
  request.update = UpdateTime::behind_backward;
  request.clips = true;
  const Planned twice = make_plan(job, request);
  ASSERT_TRUE(twice.plan.undoable);
  EXPECT_EQ(twice.memory.trained_on_disk, once);
  EXPECT_EQ(twice.memory.peak[2], once * 2);
}

// With all layers between their uses, one buffer is as fast as two.
TEST(Planner, AnUntiedHeadPassesThroughTheEmbeddingsBuffer) {
  const auto weights_bytes = [](int64_t head_elements) {
    JobShape job = toy_job(1, /*adapter=*/true);
    GroupShape head = job.groups.front();
    head.name = "head.untied";
    head.elements = head_elements;
    job.groups.push_back(head);
    job.blocks.back().groups.front() = static_cast<int>(job.groups.size()) - 1;
    PlanRequest request = toy_request(job);
    request.source_low_bits.assign(job.groups.size(), 0);
    request.weights = Tier::disk;
    request.prefetch = 1;
    const Planned planned = make_plan(job, request);
    return planned.memory.by_tag[static_cast<size_t>(Tier::host)][static_cast<size_t>(Tag::weights)];
  };
  EXPECT_EQ(weights_bytes(22528) - weights_bytes(20000), Bytes{22528 * 2});
}

TEST(Planner, PrintsPlansThatDifferDifferently) {
  const JobShape job = toy_job(1);
  PlanRequest request = toy_request(job);
  request.prefetch = 1;
  const std::string one = to_yaml(make_plan(job, request).plan, job);
  request.prefetch = 2;
  EXPECT_NE(one, to_yaml(make_plan(job, request).plan, job));
}

}  // namespace
}  // namespace sluice::plan
