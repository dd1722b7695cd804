#include "runtime/plan/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>

#include "tests/unit/plan/random_job.h"
#include "tests/unit/plan/toy_job.h"

namespace sluice::plan {
namespace {

double combinations(const Choices& choices) {
  double product = 1;
  for (const Choice& choice : choices.all()) product *= static_cast<double>(choice.options.size());
  return product;
}

bool within(const Score& score, const SearchLimits& limits) {
  for (size_t tier = 0; tier < kTierCount; ++tier)
    if (score.memory[tier] > limits.caps[tier]) return false;
  return true;
}

// The least time of all assignments that fit.
Microseconds exhaustive(const Choices& choices, Scorer& score, const SearchLimits& limits) {
  Microseconds best{1e18};
  Assignment assignment = choices.fastest();
  for (size_t i = 0; i < assignment.size();) {
    const Score& each = score(assignment);
    if (within(each, limits)) best = std::min(best, each.time);
    for (i = 0; i < assignment.size(); ++i) {
      if (++assignment[i] < static_cast<int>(choices.all()[i].options.size())) break;
      assignment[i] = 0;
    }
  }
  return best;
}

// Forces what makes the instance too large to enumerate.
void force_some(RandomJobs& random, const JobShape& job, PlanRequest& request, double most) {
  request.prefetch = random.pick({1, 2});
  while (combinations(Choices(job, request, 1 << 20)) > most) switch (random.between(0, 4)) {
      case 0:
        request.gradients = random.coin() ? Tier::host : Tier::disk;
        break;
      case 1:
        request.weights = random.coin() ? Tier::host : Tier::disk;
        break;
      case 2:
        request.states = random.coin() ? Tier::host : Tier::disk;
        break;
      case 3:
        request.update = random.coin() ? UpdateTime::before_forward : UpdateTime::behind_backward;
        break;
      case 4:
        if (random.between(0, 3) == 0) request.activations = random.coin() ? SlotFate::keep : SlotFate::disk;
        break;
    }
}

// SLUICE_PLAN_INSTANCES: more of them.
TEST(Search, IsWithinThreePercentOfTheExhaustiveOptimum) {
  const char* asked = std::getenv("SLUICE_PLAN_INSTANCES");
  const int instances = asked ? std::atoi(asked) : SLUICE_PLAN_INSTANCES_DEFAULT;
  RandomJobs random(1);
  std::vector<double> distances;
  while (static_cast<int>(distances.size()) < instances) {
    const JobShape job = random.shape();
    PlanRequest request = toy_request(job);
    request.memory = random.coin() ? DeviceMemory::separate : DeviceMemory::unified;
    request.profile = random.machine();
    request.update.reset();
    request.clips = random.coin();
    force_some(random, job, request, 20'000);
    const Choices choices(job, request, 1 << 20);
    Scorer score(job, request, choices, request.profile);
    // Caps anywhere between what the smallest and the fastest take.
    SearchLimits limits;
    const Score least = score(choices.smallest()), most = score(choices.fastest());
    for (size_t tier = 0; tier < kTierCount; ++tier) {
      const auto [low, high] = std::minmax(least.memory[tier].count, most.memory[tier].count);
      limits.caps[tier] = tier == static_cast<size_t>(Tier::disk) ? GiB(1) : Bytes{random.between(low, high)};
    }
    const Microseconds optimum = exhaustive(choices, score, limits);
    Scorer fresh(job, request, choices, request.profile);
    const std::optional<Assignment> found = search(choices, fresh, limits);
    if (optimum.count == 1e18) {
      EXPECT_FALSE(found);
      continue;
    }
    ASSERT_TRUE(found);
    EXPECT_TRUE(within(score(*found), limits));
    distances.push_back(score(*found).time.count / optimum.count - 1);
  }
  std::sort(distances.begin(), distances.end());
  const auto at = [&](double share) {
    return 100 * distances[static_cast<size_t>(share * static_cast<double>(distances.size() - 1))];
  };
  std::printf("%d instances: distance from the optimum %.2f %% median, %.2f %% 90th, %.2f %% 99th, %.2f %% worst\n",
              instances, at(0.5), at(0.9), at(0.99), at(1));
  EXPECT_LE(at(1), 3.0);
}

TEST(Search, PlansManyLayersQuickly) {
  for (const DeviceMemory memory : {DeviceMemory::unified, DeviceMemory::separate}) {
    JobShape job = toy_job(8, false, SLUICE_PLAN_LAYERS);
    for (GroupShape& group : job.groups) {
      group.elements = group.name == "head" ? 12288 : 1'800'000'000;
      group.staging_bytes = Bytes{(1 << 25) + 8192};
    }
    job.boundary_bytes = MiB(48);
    job.device_memory_rate = {9e11};
    for (BlockShape& block : job.blocks)
      for (SlotShape& slot : block.slots) slot.bytes = Bytes{slot.bytes.count * 8192};
    PlanRequest request = toy_request(job);
    request.memory = memory;
    request.update.reset();
    request.clips = true;
    request.chunk_elements = 1 << 24;
    request.caps = {GiB(48), GiB(256), GiB(8192)};
    const auto begin = std::chrono::steady_clock::now();
    const std::optional<Planned> planned = find_plan(job, request);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::printf("%d layers of 1.8B parameters: planned in %.2f s\n", SLUICE_PLAN_LAYERS, seconds);
    ASSERT_TRUE(planned);
  }
}

}  // namespace
}  // namespace sluice::plan
