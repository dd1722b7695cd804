#include "runtime/plan/score.h"

#include <algorithm>
#include <atomic>
#include <future>

#include "runtime/core/processor.h"
#include "runtime/plan/buffer_names.h"
#include "runtime/plan/schedule_builder.h"
#include "runtime/plan/simulate.h"

namespace sluice::plan {
namespace {

constexpr int kMicroBatchesMost = 4;
constexpr int64_t kChunksPerGroup = 4;
// Of the time that all moves take: four busy lanes make a plan look 2% slower.
constexpr double kTrafficWeight = 0.005;

// The step's micro-batches as a few larger ones: of the same bytes, FLOPs and time in all.
JobShape with_fewer_micro_batches(const JobShape& shape) {
  JobShape coarse = shape;
  coarse.micro_batches = std::min(shape.micro_batches, kMicroBatchesMost);
  const double times = static_cast<double>(shape.micro_batches) / coarse.micro_batches;
  const auto scale = [&](auto& quantity) {
    quantity.count =
        static_cast<std::remove_reference_t<decltype(quantity.count)>>(static_cast<double>(quantity.count) * times);
  };
  if (times == 1) return coarse;
  scale(coarse.boundary_bytes);
  for (BlockShape& block : coarse.blocks) {
    scale(block.forward_time);
    scale(block.backward_time);
    for (SlotShape& slot : block.slots) {
      scale(slot.bytes);
      scale(slot.recompute_time);
    }
  }
  return coarse;
}

// Chunks so large that no group has many, in a ring of about the same bytes but two chunks at least.
struct Coarsening {
  int chunk = 1;          // times larger
  double ring_bytes = 1;  // times more
};
Coarsening coarsen_chunks(Plan& plan, int64_t largest_group) {
  Coarsening by;
  while (plan.chunk_elements * kChunksPerGroup < largest_group) {
    plan.chunk_elements *= 2;
    by.chunk *= 2;
    if (plan.chunk_ring >= 4) {
      plan.chunk_ring /= 2;
    } else {
      by.ring_bytes *= 2;
    }
  }
  return by;
}

Microseconds traffic(const std::array<LaneWork, kLaneCount>& work, const MachineProfile& profile) {
  Microseconds sum;
  for (const Lane lane : {Lane::h2d, Lane::d2h, Lane::read, Lane::write})
    sum += time_alone(lane, work[static_cast<size_t>(lane)], profile);
  return sum;
}

// What rings of chunks take more than they will.
std::array<Bytes, kTierCount> surplus(const Layout& layout, double ring_bytes) {
  std::array<Bytes, kTierCount> more;
  for (const Buffer& buffer : layout.buffers())
    if (holds_a_chunk(buffer))
      more[static_cast<size_t>(buffer.tier)] +=
          Bytes{static_cast<int64_t>(static_cast<double>(buffer.bytes) * (1 - 1 / ring_bytes))};
  return more;
}

}  // namespace

Scorer::Scorer(const JobShape& shape, const PlanRequest& request, const Choices& choices, const MachineProfile& profile)
    : request_(request), choices_(choices), profile_(profile) {
  for (const GroupShape& group : shape.groups) largest_group_ = std::max(largest_group_, group.elements);
  const JobShape coarse = with_fewer_micro_batches(shape);
  Plan plan = choices.plan_of(choices.fastest());
  const int most = coarsen_chunks(plan, largest_group_).chunk;
  for (int times = 1; times <= most; times *= 2) {
    JobShape& scaled = coarse_.emplace(times, coarse).first->second;
    for (GroupShape& group : scaled.groups) {
      group.staging_bytes = group.staging_bytes * times;
      group.states_staging_bytes = group.states_staging_bytes * times;
    }
  }
}

Scorer::Scored Scorer::scored(const Assignment& assignment, bool timed) const {
  Plan plan = choices_.plan_of(assignment);
  const Coarsening by = coarsen_chunks(plan, largest_group_);
  const JobShape& coarse = coarse_.at(by.chunk);
  const int m = coarse.micro_batches;
  Layout layout;
  Scored result;
  const Schedule schedule = build_schedule(coarse, plan, steady_phase(plan, m), request_.source_low_bits, layout);
  result.ops += static_cast<int64_t>(schedule.ops.size());
  Score& score = result.score;
  const MemoryUse memory = layout.memory();
  score.memory = memory.peak;
  score.memory[static_cast<size_t>(Tier::disk)] += checkpoint_bytes(memory, coarse);
  const std::array<Bytes, kTierCount> more = surplus(layout, by.ring_bytes);
  for (size_t tier = 0; tier < kTierCount; ++tier) score.memory[tier] -= more[tier];
  if (!timed) return result;
  const Simulation simulation = simulate(schedule, layout.buffers(), profile_);
  score.time = simulation.time;
  score.price = simulation.time + traffic(simulation.work, profile_) * kTrafficWeight;
  return result;
}

const Score& Scorer::operator()(const Assignment& assignment, bool timed) {
  const auto [place, fresh] = known_.try_emplace({assignment, timed});
  if (fresh) {
    const Scored result = scored(assignment, timed);
    place->second = result.score;
    spent_ += result.ops;
  }
  return place->second;
}

void Scorer::prepare(const std::vector<Assignment>& assignments, bool timed) {
  std::vector<const Assignment*> missing;
  for (const Assignment& assignment : assignments)
    if (!known_.contains({assignment, timed})) missing.push_back(&assignment);
  std::vector<Scored> results(missing.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < missing.size(); i = next++) results[i] = scored(*missing[i], timed);
  };
  std::vector<std::future<void>> others;
  for (size_t core = 1; core < std::min(static_cast<size_t>(usable_cores()), missing.size()); ++core)
    others.push_back(std::async(std::launch::async, work));
  work();
  for (std::future<void>& other : others) other.get();
  for (size_t i = 0; i < missing.size(); ++i)
    if (known_.try_emplace({*missing[i], timed}, results[i].score).second) spent_ += results[i].ops;
}

}  // namespace sluice::plan
