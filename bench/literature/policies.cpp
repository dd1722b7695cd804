#include "bench/literature/policies.h"

#include <algorithm>
#include <array>

#include "runtime/plan/choices.h"
#include "runtime/plan/planner.h"
#include "runtime/plan/schedule_builder.h"

namespace sluice::literature {
namespace {

using plan::JobShape;
using plan::Plan;
using plan::SlotFate;

// A peer updates so much at once: large, as they do.
constexpr int64_t kPeerPiece = int64_t{1} << 26;
// Read, updated and written before the next is read.
constexpr int kInTurn = 1;
// Buffers for gradients on the device: what ours may choose from.
constexpr std::array kGradientRings = {2, 1};

void add_phase(Step& step, const JobShape& shape, const Plan& plan, const plan::Phase& phase) {
  const std::vector<uint8_t> low_bits(shape.groups.size(), 0);
  step.schedules.push_back(build_schedule(shape, plan, phase, low_bits, step.layout));
}

int64_t moved(const Step& step, Lane lane) {
  int64_t bytes = 0;
  for (const plan::Schedule& schedule : step.schedules) bytes += work_of(schedule)[static_cast<size_t>(lane)].bytes;
  return bytes;
}

Bytes swapped_bytes(const JobShape& shape, const Plan& plan) {
  Bytes sum;
  const auto leaves = [](SlotFate fate) { return fate == SlotFate::host || fate == SlotFate::disk; };
  for (size_t b = 0; b < shape.blocks.size(); ++b) {
    if (leaves(plan.blocks[b].input)) sum += shape.boundary_bytes;
    for (size_t s = 0; s < shape.blocks[b].slots.size(); ++s)
      if (leaves(plan.blocks[b].slots[s])) sum += shape.blocks[b].slots[s].bytes;
  }
  return sum * shape.micro_batches;
}

Bytes peak(const Step& step, Tier tier) { return step.layout.memory().peak[static_cast<size_t>(tier)]; }
Bytes cap(const plan::Machine& machine, Tier tier) { return caps_of(machine)[static_cast<size_t>(tier)]; }
Bytes host_excess(const Step& step, const JobShape& shape, const plan::Machine& machine) {
  return peak(step, Tier::host) + shape.process_bytes - cap(machine, Tier::host);
}
bool fits(const Step& step, const JobShape& shape, const plan::Machine& machine) {
  return peak(step, Tier::device) <= cap(machine, Tier::device) && host_excess(step, shape, machine).count <= 0;
}

Outcome outcome(const DenseJob& job, const JobShape& shape, const Plan& plan, const Step& step,
                const plan::MachineProfile& profile) {
  Outcome result{.job = job};
  for (const plan::Schedule& schedule : step.schedules) {
    const plan::Simulation simulation = simulate(schedule, step.layout.buffers(), profile);
    result.time += simulation.time;
    if (simulation.bound.time > result.bound.time) result.bound = simulation.bound;
  }
  result.read = {moved(step, Lane::read)};
  result.written = {moved(step, Lane::write)};
  result.device = peak(step, Tier::device);
  result.host = peak(step, Tier::host) + shape.process_bytes;
  result.swapped = swapped_bytes(shape, plan);
  return result;
}

struct Place {
  int block = 0, slot = 0;
  double worth = 0;  // FLOPs saved per byte
};

// Slots by what keeping them saves, the last layers first among equals.
std::vector<Place> swap_order(const JobShape& shape) {
  std::vector<Place> order;
  for (int b = static_cast<int>(shape.blocks.size()) - 1; b >= 0; --b)
    for (int s = 0; s < static_cast<int>(shape.blocks[static_cast<size_t>(b)].slots.size()); ++s) {
      const plan::SlotShape& slot = shape.blocks[static_cast<size_t>(b)].slots[static_cast<size_t>(s)];
      order.push_back({b, s, slot.recompute_flops / static_cast<double>(slot.bytes.count)});
    }
  std::stable_sort(order.begin(), order.end(), [](const Place& a, const Place& b) { return a.worth > b.worth; });
  return order;
}

Plan peer_plan(const JobShape& shape, plan::GroupPlan group, int states_in_flight) {
  Plan plan;
  plan.memory = plan::DeviceMemory::separate;
  plan.groups.assign(shape.groups.size(), group);
  for (const plan::BlockShape& block : shape.blocks)
    plan.blocks.push_back({SlotFate::host, std::vector<SlotFate>(block.slots.size(), SlotFate::recompute)});
  plan.prefetch = 1;
  plan.chunk_elements = kPeerPiece;
  plan.chunk_ring = states_in_flight;
  return plan;
}

DenseJob peer_job(const DenseModel& model, int64_t rows) {
  return {model, 1024, rows, 1, StateFormat::separate_master, Recomputation::whole_layer};
}

// The update overwrites the bf16 copy from the fp32 master: what is read of a group's weights behind the last op that
// computes with them is not needed.
void drop_reads_for_updates(plan::Schedule& schedule, const JobShape& shape, const plan::Layout& layout) {
  std::vector<size_t> last_use(shape.groups.size(), 0);
  for (size_t id = 0; id < schedule.ops.size(); ++id)
    if (schedule.ops[id].lane == Lane::compute)
      for (const int g : shape.blocks[static_cast<size_t>(schedule.ops[id].block)].groups)
        last_use[static_cast<size_t>(g)] = id;
  for (size_t id = 0; id < schedule.ops.size(); ++id) {
    plan::Op& op = schedule.ops[id];
    const bool weights =
        op.kind == plan::OpKind::read && layout.at(op.operands.front().buffer).tag == plan::Tag::weights;
    if (weights && id >= last_use[static_cast<size_t>(op.group)]) op.bytes = 0;
  }
}

// Fuyou's step with so many slots swapped, as much to the host as there is room for.
std::optional<Outcome> fuyou_swapping(const Fuyou& policy, const DenseJob& job, const JobShape& shape, int swapped,
                                      int gradient_ring, const plan::Machine& machine) {
  constexpr int kAttempts = 6;
  Bytes room = cap(machine, Tier::host);
  for (int attempt = 0; attempt < kAttempts && room.count >= 0; ++attempt) {
    Plan plan = fuyou_plan(shape, policy.states_in_flight, swapped, room);
    plan.gradient_ring = gradient_ring;
    const Step step = fuyou_schedules(shape, plan);
    if (fits(step, shape, machine)) return outcome(job, shape, plan, step, profile_of(machine));
    if (peak(step, Tier::device) > cap(machine, Tier::device)) return std::nullopt;
    room = std::min(room, swapped_bytes(shape, plan)) - host_excess(step, shape, machine);
  }
  return std::nullopt;
}

}  // namespace

std::array<Bytes, kTierCount> caps_of(const plan::Machine& machine) {
  const auto most = [](Bytes bytes) { return Bytes{bytes.count / 10 * 9}; };
  return {most(machine.device_bytes), most(machine.host_bytes), GiB(1 << 20)};
}

Plan fuyou_plan(const JobShape& shape, int states_in_flight, int swapped, Bytes host_room) {
  Plan plan =
      peer_plan(shape, {Tier::disk, Tier::disk, Tier::host, plan::UpdateTime::behind_backward}, states_in_flight);
  const auto place = [&](SlotFate& fate, Bytes bytes) {
    fate = bytes <= host_room ? SlotFate::host : SlotFate::disk;
    if (fate == SlotFate::host) host_room -= bytes;
  };
  for (size_t b = 1; b < shape.blocks.size(); ++b) place(plan.blocks[b].input, shape.boundary_bytes);
  const std::vector<Place> order = swap_order(shape);
  for (size_t i = 0; i < std::min(order.size(), static_cast<size_t>(swapped)); ++i) {
    const auto b = static_cast<size_t>(order[i].block), s = static_cast<size_t>(order[i].slot);
    place(plan.blocks[b].slots[s], shape.blocks[b].slots[s].bytes);
  }
  return plan;
}

std::optional<Outcome> fuyou_step(const Fuyou& policy, const DenseModel& model, int64_t rows,
                                  const plan::Machine& machine) {
  constexpr int kAmounts = 20;
  // The smallest amount that makes the step as short as any: swapping more would only add traffic.
  constexpr double kShorter = 0.999;
  const DenseJob job = peer_job(model, rows);
  const JobShape shape = dense_shape(job, machine);
  const auto slots = static_cast<int>(swap_order(shape).size());
  std::optional<Outcome> best;
  for (const int gradient_ring : kGradientRings)
    for (int i = 0; i <= kAmounts; ++i) {
      const std::optional<Outcome> tried =
          fuyou_swapping(policy, job, shape, slots * i / kAmounts, gradient_ring, machine);
      if (!tried) break;
      if (!best || tried->time.count < best->time.count * kShorter) best = tried;
    }
  return best;
}

Step fuyou_schedules(const JobShape& shape, const Plan& plan) {
  Step step;
  add_phase(step, shape, plan, plan::steady_phase(plan, 1));
  drop_reads_for_updates(step.schedules.back(), shape, step.layout);
  return step;
}

Plan zero_infinity_plan(const JobShape& shape, Tier gradients, int states_in_flight) {
  return peer_plan(shape, {Tier::disk, Tier::disk, gradients, plan::UpdateTime::before_forward}, states_in_flight);
}

Step zero_infinity_schedules(const JobShape& shape, const Plan& plan) {
  Step step;
  add_phase(step, shape, plan, {plan::PhaseKind::train, 1, false, true, true});
  add_phase(step, shape, plan, {plan::PhaseKind::flush, 1, true, true, true});
  drop_reads_for_updates(step.schedules.back(), shape, step.layout);
  return step;
}

std::optional<Outcome> zero_infinity_step(const DenseModel& model, int64_t rows, const plan::Machine& machine) {
  const DenseJob job = peer_job(model, rows);
  const JobShape shape = dense_shape(job, machine);
  for (const Tier gradients : {Tier::host, Tier::disk})
    for (const int gradient_ring : kGradientRings) {
      Plan plan = zero_infinity_plan(shape, gradients, kInTurn);
      plan.gradient_ring = gradient_ring;
      const Step step = zero_infinity_schedules(shape, plan);
      if (fits(step, shape, machine)) return outcome(job, shape, plan, step, profile_of(machine));
    }
  return std::nullopt;
}

std::optional<Outcome> sluice_step(const DenseModel& model, int64_t rows, int micro_batches,
                                   const plan::Machine& machine, StateFormat states) {
  const DenseJob job{model, 1024, rows, micro_batches, states};
  const JobShape shape = dense_shape(job, machine);
  const std::optional<plan::Planned> planned = find_plan(shape, automatic_request(shape, machine));
  if (!planned) return std::nullopt;
  Outcome result{.job = job, .time = planned->steady.time, .bound = planned->steady.bound};
  const auto& work = planned->steady.work;
  result.read = {work[static_cast<size_t>(Lane::read)].bytes};
  result.written = {work[static_cast<size_t>(Lane::write)].bytes};
  result.device = memory_in(Tier::device, planned->memory, shape);
  result.host = memory_in(Tier::host, planned->memory, shape);
  result.swapped = swapped_bytes(shape, planned->plan);
  return result;
}

plan::PlanRequest automatic_request(const JobShape& shape, const plan::Machine& machine) {
  plan::PlanRequest request;
  request.memory = plan::DeviceMemory::separate;
  request.caps = caps_of(machine);
  request.source_low_bits.assign(shape.groups.size(), 0);
  int64_t largest = 0;
  for (const plan::GroupShape& group : shape.groups) largest = std::max(largest, group.elements);
  request.chunk_elements = plan::chunk_elements_for(largest);
  request.profile = profile_of(machine);
  return request;
}

}  // namespace sluice::literature
