#include "tests/unit/plan/random_plan.h"

#include <cmath>

#include "tests/unit/plan/random_job.h"

namespace sluice::plan {
namespace {

constexpr int64_t kChunkElements = 4096;

bool coin(Random& random) { return pick(random, 0, 1) == 0; }

// Blocks get their times, which decide what the planner prefers.
class ShapeMaker {
 public:
  explicit ShapeMaker(Random& random)
      : random_(random), split_(coin(random)), moments_(static_cast<MomentFormat>(pick(random, 0, 2))) {}

  JobShape make() {
    const bool adapters = pick(random_, 0, 2) == 0;
    const int64_t layers = pick(random_, 0, 4), layer_elements = pick(random_, 1, 10'000);
    job_.tokens_max = 64;
    job_.micro_batches = static_cast<int>(pick(random_, 1, 8));
    job_.boundary_bytes = Bytes{pick(random_, 1, 3) * 4096 - pick(random_, 0, 1) * 64};
    job_.device_memory_rate = {2e10};
    job_.gradient_bytes_per_element = split_ && job_.micro_batches == 1 ? 2 : 4;
    const int embedding = add_group("embedding", pick(random_, 64, 12'000), !adapters);
    add_block("embedding", {embedding}, {}, 10);
    const std::vector<SlotShape> slots = random_slots();
    for (int64_t layer = 0; layer < layers; ++layer) {
      const int64_t elements = pick(random_, 0, 3) == 0 ? pick(random_, 1, 10'000) : layer_elements;
      std::vector<int> groups = {add_group("layer", elements, !adapters)};
      if (adapters) groups.push_back(add_group("adapter", 640, true));
      add_block("layer", std::move(groups), slots, static_cast<double>(pick(random_, 50, 5000)));
    }
    std::vector<int> head = {add_group("head", pick(random_, 32, 6000), !adapters || layers == 0)};
    if (coin(random_)) head.insert(head.begin(), embedding);
    add_block("head", std::move(head), {}, 100);
    return std::move(job_);
  }

 private:
  int add_group(const char* name, int64_t elements, bool trainable) {
    std::vector<ElementRange> exact;
    if (moments_ == MomentFormat::int8 && coin(random_)) exact.push_back({256, 256 * pick(random_, 2, 20)});
    job_.groups.push_back({name, trainable, elements, split_ ? 2 : 4,
                           StateLayout(moments_, split_ ? Dtype::bf16 : Dtype::f32, std::move(exact)),
                           Bytes{elements * 4 + 8192}});
    return static_cast<int>(job_.groups.size()) - 1;
  }
  void add_block(const char* name, std::vector<int> groups, std::vector<SlotShape> slots, double forward_us) {
    BlockShape block{name, std::move(groups), std::move(slots), forward_us * 1e3, forward_us * 2e3};
    block.forward_time = {forward_us};
    block.backward_time = {2 * forward_us};
    for (SlotShape& slot : block.slots) slot.recompute_time = {forward_us / 4};
    block.workspace_bytes = [](ComputePass pass, std::span<const uint8_t>) {
      return Bytes{pass == ComputePass::forward ? 4000 : 9000};
    };
    job_.blocks.push_back(std::move(block));
  }
  std::vector<SlotShape> random_slots() {
    const std::vector<int64_t> sizes = {64, 4096, 5000, 12'288};
    std::vector<SlotShape> slots;
    for (int64_t s = pick(random_, 0, 3); s > 0; --s) slots.push_back({"slot", Bytes{pick(random_, sizes)}, 1e5, {}});
    return slots;
  }

  Random& random_;
  const bool split_;  // bf16 weights with their low halves among the states, or fp32 ones
  const MomentFormat moments_;
  JobShape job_;
};

Plan random_plan(Random& random, const JobShape& shape, bool clips) {
  const std::vector<Tier> any = {Tier::device, Tier::host, Tier::disk}, off_device = {Tier::host, Tier::disk};
  const std::vector<SlotFate> fates = {SlotFate::keep, SlotFate::host, SlotFate::disk, SlotFate::recompute};
  const std::vector<SlotFate> input_fates = {SlotFate::keep, SlotFate::host, SlotFate::disk};
  Plan plan;
  plan.memory = coin(random) ? DeviceMemory::unified : DeviceMemory::separate;
  plan.prefetch = static_cast<int>(pick(random, 1, 4));
  plan.chunk_elements = kChunkElements;
  plan.chunk_ring = static_cast<int>(pick(random, 2, 6));
  const bool some_early = coin(random);
  for (const GroupShape& group : shape.groups) {
    GroupPlan where{pick(random, plan.memory == DeviceMemory::unified ? off_device : any), pick(random, off_device),
                    pick(random, off_device)};
    if (where.weights == Tier::device && coin(random)) where.states = where.gradients = Tier::device;
    if (group.trainable && some_early && pick(random, 0, 3) > 0) where.update = UpdateTime::behind_backward;
    plan.groups.push_back(where);
  }
  plan.undoable = clips && updates_behind_backward(plan);
  for (const BlockShape& block : shape.blocks) {
    BlockPlan blocks{pick(random, input_fates), {}};
    for (size_t s = 0; s < block.slots.size(); ++s) blocks.slots.push_back(pick(random, fates));
    plan.blocks.push_back(std::move(blocks));
  }
  return plan;
}

// As the planner does it.
Planned lower(const JobShape& shape, Plan plan, const PlanRequest& request) {
  Planned planned;
  planned.plan = std::move(plan);
  for (const Phase& phase : phases_of(shape, planned.plan, request.resumes))
    planned.schedules.emplace(phase,
                              build_schedule(shape, planned.plan, phase, request.source_low_bits, planned.layout));
  planned.layout.freeze();
  planned.memory = planned.layout.memory();
  return planned;
}

// With all the memory that it wants, and with less. Most things are forced: the search over what is left is short. The
// planner proves what it makes, and throws when it cannot.
void choose_by_planner(Random& random, RandomJob& job) {
  PlanRequest request = job.request;
  const auto force = [&](auto& choice, auto value) {
    if (pick(random, 0, 2) > 0) choice = value;
  };
  request.memory = coin(random) ? DeviceMemory::unified : DeviceMemory::separate;
  request.prefetch = static_cast<int>(pick(random, 1, 4));
  force(request.weights, static_cast<Tier>(pick(random, 0, 2)));
  force(request.states, static_cast<Tier>(pick(random, 0, 2)));
  force(request.gradients, static_cast<Tier>(pick(random, 1, 2)));
  force(request.activations, static_cast<SlotFate>(pick(random, 0, 3)));
  force(request.update, static_cast<UpdateTime>(pick(random, 0, 1)));
  request.profile = RandomJobs(random()).machine();
  request.caps = {GiB(1), GiB(1), GiB(1)};
  job.plans.push_back(make_plan(job.shape, request));
  const MemoryUse wanted = job.plans.back().memory;
  for (int64_t percent = pick(random, 40, 90); percent < 100; percent += 10) {
    for (const Tier tier : {Tier::device, Tier::host})
      request.caps[static_cast<size_t>(tier)] = Bytes{memory_in(tier, wanted, job.shape).count * percent / 100};
    std::optional<Planned> tight = find_plan(job.shape, request);
    if (!tight) continue;
    job.plans.push_back(std::move(*tight));
    return;
  }
}

}  // namespace

RandomJob random_job(uint64_t seed) {
  Random random(seed);
  RandomJob job{ShapeMaker(random).make(), {}, {}};
  job.request.resumes = coin(random);
  job.request.clips = coin(random);
  job.request.source_low_bits.assign(job.shape.groups.size(), coin(random) ? 1 : 0);
  job.request.chunk_elements = kChunkElements;
  for (int i = 0; i < 2; ++i)
    job.plans.push_back(lower(job.shape, random_plan(random, job.shape, job.request.clips), job.request));
  choose_by_planner(random, job);
  return job;
}

}  // namespace sluice::plan
