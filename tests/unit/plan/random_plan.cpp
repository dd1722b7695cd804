#include "tests/unit/plan/random_plan.h"

namespace sluice::plan {

JobShape random_shape(Random& random) {
  const bool adapters = pick(random, 0, 2) == 0, tied = pick(random, 0, 1) == 0, split = pick(random, 0, 1) == 0;
  const int layers = static_cast<int>(pick(random, 0, 4));
  JobShape job;
  job.tokens_max = 64;
  job.micro_batches = static_cast<int>(pick(random, 1, 4));
  job.boundary_bytes = Bytes{pick(random, 1, 3) * 4096 - pick(random, 0, 1) * 64};
  job.gradient_bytes_per_element = split && job.micro_batches == 1 ? 2 : 4;
  const auto add_group = [&](const char* name, int64_t elements, bool trainable) {
    job.groups.push_back({name, trainable, elements, split ? 2 : 4, split ? 10 : 8, Bytes{elements * 4 + 8192}});
    return static_cast<int>(job.groups.size()) - 1;
  };
  const auto scratch = [](ComputePass pass, std::span<const uint8_t>) {
    return Bytes{pass == ComputePass::forward ? 4000 : 9000};
  };
  const int64_t layer_elements = pick(random, 1, 10'000);
  const int embedding = add_group("embedding", pick(random, 64, 12'000), !adapters);
  job.blocks.push_back({"embedding", {embedding}, {}, 1e6, 1e6, scratch});
  const std::vector<int64_t> slot_bytes = {64, 4096, 5000, 12'288};
  std::vector<SlotShape> slots;
  for (int64_t s = pick(random, 0, 3); s > 0; --s) slots.push_back({"slot", Bytes{pick(random, slot_bytes)}, 1e5});
  for (int layer = 0; layer < layers; ++layer) {
    const int64_t elements = pick(random, 0, 3) == 0 ? pick(random, 1, 10'000) : layer_elements;
    BlockShape block{
        "layer." + std::to_string(layer), {add_group("layer", elements, !adapters)}, slots, 2e9, 4e9, scratch};
    if (adapters) block.groups.push_back(add_group("adapter", 640, true));
    job.blocks.push_back(std::move(block));
  }
  const bool head_trained = !adapters || layers == 0;
  BlockShape head{"head", {add_group("head", pick(random, 32, 6000), head_trained)}, {}, 1e9, 2e9, scratch};
  if (tied) head.groups.insert(head.groups.begin(), embedding);
  job.blocks.push_back(std::move(head));
  return job;
}

Plan random_plan(Random& random, const JobShape& shape) {
  const std::vector<Tier> any = {Tier::device, Tier::host, Tier::disk}, off_device = {Tier::host, Tier::disk};
  const std::vector<SlotFate> fates = {SlotFate::keep, SlotFate::host, SlotFate::disk, SlotFate::recompute};
  const std::vector<SlotFate> input_fates = {SlotFate::keep, SlotFate::host, SlotFate::disk};
  Plan plan;
  plan.memory = pick(random, 0, 1) == 0 ? DeviceMemory::unified : DeviceMemory::separate;
  plan.prefetch = static_cast<int>(pick(random, 1, 4));
  plan.chunk_elements = 4096;
  plan.chunk_ring = static_cast<int>(pick(random, 2, 6));
  for (size_t g = 0; g < shape.groups.size(); ++g)
    plan.groups.push_back({pick(random, plan.memory == DeviceMemory::unified ? off_device : any),
                           pick(random, off_device), pick(random, off_device)});
  for (const BlockShape& block : shape.blocks) {
    BlockPlan blocks{pick(random, input_fates), {}};
    for (size_t s = 0; s < block.slots.size(); ++s) blocks.slots.push_back(pick(random, fates));
    plan.blocks.push_back(std::move(blocks));
  }
  return plan;
}

PlanRequest random_request(Random& random, const JobShape& shape) {
  const auto maybe = [&](auto& choice, auto value) {
    if (pick(random, 0, 1) == 0) choice = value;
  };
  PlanRequest request;
  request.memory = pick(random, 0, 1) == 0 ? DeviceMemory::unified : DeviceMemory::separate;
  maybe(request.weights, static_cast<Tier>(pick(random, 0, 2)));
  maybe(request.states, static_cast<Tier>(pick(random, 1, 2)));
  maybe(request.gradients, static_cast<Tier>(pick(random, 1, 2)));
  maybe(request.activations, static_cast<SlotFate>(pick(random, 0, 3)));
  maybe(request.prefetch, static_cast<int>(pick(random, 1, 4)));
  request.caps = {GiB(1), GiB(1), GiB(1)};
  request.source_low_bits.assign(shape.groups.size(), static_cast<uint8_t>(pick(random, 0, 1)));
  request.resumes = pick(random, 0, 1) == 0;
  // What the reference interpreter knows.
  request.update = UpdateTime::before_forward;
  return request;
}

Lowered lower(const JobShape& shape, const Plan& plan, bool low_bits, bool resumes) {
  const std::vector<uint8_t> source_low_bits(shape.groups.size(), low_bits ? 1 : 0);
  Layout layout;
  Lowered lowered{plan, {}, {}, {}};
  for (const Phase& phase : phases_of(shape, plan, resumes))
    lowered.schedules.emplace(phase, build_schedule(shape, plan, phase, source_low_bits, layout));
  lowered.buffers = layout.buffers();
  lowered.capacity = layout.memory().peak;
  return lowered;
}

}  // namespace sluice::plan
