#include "tests/unit/plan/reference_interpreter.h"

#include <algorithm>

namespace sluice::plan {
namespace {

constexpr int64_t kPage = 4096;

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xff51afd7ed558ccdu;
  x ^= x >> 32;
  return x * 0xc4ceb9fe1a85ec53u;
}
template <class... More>
uint64_t mix(uint64_t a, uint64_t b, More... more) {
  return mix(mix(a, b), static_cast<uint64_t>(more)...);
}
uint64_t digest(const Pages& pages) {
  uint64_t all = pages.size();
  for (const uint64_t page : pages) all = mix(all, page);
  return all;
}
void fill(Pages& pages, uint64_t what) {
  for (size_t p = 0; p < pages.size(); ++p) pages[p] = mix(what, p);
}
uint64_t torn(uint64_t garbage, OpId id) { return mix(garbage, 1000, static_cast<uint64_t>(id)); }

// What each value is.
enum What : uint64_t {
  source,
  unpacked,
  initial,
  output,
  saved,
  loss_value,
  loss_gradient,
  input_gradient,
  part,
  norm_value,
  updated_weights,
  updated_states,
  garbage_page,
  race
};

// Where the executor runs it.
Lane runs_on(OpKind kind) {
  if (kind == OpKind::read_source || kind == OpKind::read) return Lane::read;
  if (kind == OpKind::write) return Lane::write;
  if (kind == OpKind::copy_to_device) return Lane::h2d;
  if (kind == OpKind::copy_to_host) return Lane::d2h;
  const bool pool =
      kind == OpKind::unpack || kind == OpKind::init_states || kind == OpKind::norm || kind == OpKind::update;
  return pool ? Lane::optim : Lane::compute;
}
bool one_after_another(Lane lane) { return lane != Lane::read && lane != Lane::write; }

const Operand* first(const Op& op, Role role) {
  for (const Operand& operand : op.operands)
    if (operand.role == role) return &operand;
  return nullptr;
}
const Operand* last(const Op& op, Role role, int index) {
  const Operand* found = nullptr;
  for (const Operand& operand : op.operands)
    if (operand.role == role && operand.index == index) found = &operand;
  return found;
}
const Operand* last(const Op& op, Role role) {
  const Operand* found = nullptr;
  for (const Operand& operand : op.operands)
    if (operand.role == role) found = &operand;
  return found;
}

}  // namespace

Interpreter::Interpreter(const Schedule& schedule, const std::vector<Buffer>& buffers,
                         const std::array<Bytes, kTierCount>& capacity, const JobShape& shape, const Phase& phase)
    : schedule_(schedule),
      buffers_(buffers),
      capacity_(capacity),
      shape_(shape),
      phase_(phase),
      dependents_(schedule.ops.size()),
      held_(schedule.ops.size()) {
  for (size_t id = 0; id < schedule.ops.size(); ++id) {
    const Op& op = schedule.ops[id];
    acts_.push_back(act_of(op));
    held_[id].resize(acts_.back().touches.size());
    lanes_[static_cast<size_t>(op.lane)].push_back(static_cast<OpId>(id));
    for (OpId before : op.after) dependents_[static_cast<size_t>(before)].push_back(static_cast<OpId>(id));
  }
  for (size_t tier = 0; tier < kTierCount; ++tier)
    memory_[tier].resize(static_cast<size_t>(capacity[tier].count / kPage) + 2);
  for (const Buffer& buffer : buffers) {
    const int64_t bytes = std::max(buffer.bytes, round_up(buffer.wanted_bytes, kPage));
    Pages& pages = memory_[static_cast<size_t>(buffer.tier)];
    pages.resize(std::max(pages.size(), static_cast<size_t>((buffer.offset + bytes) / kPage) + 2));
  }
}

// --- what an op touches --------------------------------------------------------------------------------------------

void Interpreter::touch(Act& act, const Operand* operand, int64_t bytes, bool reads, bool writes) const {
  if (operand == nullptr) {
    act.crash = "lacks an operand";
    return;
  }
  const Buffer& buffer = buffers_[static_cast<size_t>(operand->buffer)];
  const int64_t address = buffer.offset + operand->offset;
  const int64_t end = address + bytes;
  if (address < 0 || end > capacity_[static_cast<size_t>(buffer.tier)].count) {
    act.crash = "leaves its tier";
    return;
  }
  act.touches.push_back({static_cast<size_t>(buffer.tier), static_cast<size_t>(address / kPage),
                         static_cast<size_t>(round_up(end, kPage) / kPage - address / kPage), reads, writes,
                         static_cast<uint64_t>(address % kPage)});
}

Interpreter::Act Interpreter::act_of(const Op& op) const {
  Act act;
  const auto buffer = [&](const Operand* operand) -> const Buffer& {
    return buffers_[static_cast<size_t>(operand->buffer)];
  };
  for (const Operand& operand : op.operands)
    if (buffer(&operand).offset + buffer(&operand).bytes > capacity_[static_cast<size_t>(buffer(&operand).tier)].count)
      act.crash = "a buffer does not fit its tier";
  const Operand *from = first(op, Role::source), *to = first(op, Role::destination);
  const auto on_disk = [&](const Operand* operand) { return operand != nullptr && buffer(operand).tier == Tier::disk; };
  const auto disk_aligned = [&](const Operand* operand) {
    return operand != nullptr && (buffer(operand).offset + operand->offset) % kPage == 0;
  };
  const int64_t elements = op.end - op.begin;
  const bool grouped = op.group >= 0;
  const GroupShape group = grouped ? shape_.groups[static_cast<size_t>(op.group)] : GroupShape{};
  const int64_t gradient = shape_.gradient_bytes_per_element;
  // Three tensors of a checkpoint, each an aligned superset.
  const int64_t stored_states = elements * group.state_bytes_per_element + 3 * 8192;
  if (op.kind == OpKind::read || op.kind == OpKind::write) {
    const Operand *extent = op.kind == OpKind::read ? from : to, *memory = op.kind == OpKind::read ? to : from;
    if (!on_disk(extent) || memory == nullptr || on_disk(memory) || !disk_aligned(memory) ||
        buffer(memory).tier != Tier::host) {
      act.crash = "no such transfer";
      return act;
    }
    const Operand whole{Role::source, Access::read, 0, extent->buffer, 0, 0};
    const int64_t bytes = buffer(extent).wanted_bytes;
    if (round_up(memory->bytes, kPage) < round_up(bytes, kPage)) act.crash = "memory shorter than the extent";
    touch(act, op.kind == OpKind::read ? &whole : from, round_up(bytes, kPage), true, false);
    touch(act, op.kind == OpKind::read ? to : &whole, round_up(bytes, kPage), false, true);
    return act;
  }
  if (std::any_of(op.operands.begin(), op.operands.end(), [&](const Operand& o) { return on_disk(&o); }))
    act.crash = "disk is not memory";
  switch (op.kind) {
    case OpKind::copy_to_device:
    case OpKind::copy_to_host:
      touch(act, from, from->bytes, true, false);
      touch(act, to, from->bytes, false, true);
      break;
    case OpKind::read_source: {
      const int64_t bytes = to->index != 0 ? stored_states : group.staging_bytes.count;
      if (!disk_aligned(to) || bytes > buffer(to).bytes) act.crash = "staging is too small";
      touch(act, to, bytes, false, true);
      break;
    }
    case OpKind::unpack:
      touch(act, from, group.staging_bytes.count, true, false);
      touch(act, to, elements * group.weight_bytes_per_element, false, true);
      break;
    case OpKind::init_states:
      if (from != nullptr)
        touch(act, from, phase_.kind == PhaseKind::restore ? stored_states : group.staging_bytes.count, true, false);
      touch(act, to, elements * group.state_bytes_per_element, false, true);
      break;
    case OpKind::norm:
      touch(act, first(op, Role::gradients), group.elements * gradient, true, false);
      break;
    case OpKind::update:
      touch(act, first(op, Role::parameters), elements * group.weight_bytes_per_element, true, true);
      touch(act, first(op, Role::gradients), elements * gradient, true, false);
      touch(act, first(op, Role::states), elements * group.state_bytes_per_element, true, true);
      break;
    default:
      act_of_compute(op, act);
  }
  return act;
}

// Touches, in this order: scratch, parameters, input, [gradient of the output], slots there, [output],
// [gradient of the input], gradients there.
void Interpreter::act_of_compute(const Op& op, Act& act) const {
  const BlockShape& block = shape_.blocks[static_cast<size_t>(op.block)];
  const bool forward = op.kind == OpKind::forward, backward = op.kind == OpKind::backward;
  const auto indexed_to = [&](Role role, size_t most) {
    for (const Operand& operand : op.operands)
      if (operand.role == role && (operand.index < 0 || static_cast<size_t>(operand.index) >= most))
        act.crash = "no such argument";
  };
  indexed_to(Role::parameters, block.groups.size());
  indexed_to(Role::gradients, block.groups.size());
  indexed_to(Role::slot, block.slots.size());
  if (op.micro_batch < 0 || op.micro_batch >= phase_.micro_batches) act.crash = "no such micro-batch";
  std::vector<uint8_t> kept;
  for (size_t s = 0; s < block.slots.size(); ++s) kept.push_back(last(op, Role::slot, static_cast<int>(s)) != nullptr);
  const Bytes scratch = block.workspace_bytes(
      forward || op.kind == OpKind::loss_only ? ComputePass::forward : ComputePass::backward, kept);
  const Operand* workspace = last(op, Role::workspace);
  touch(act, workspace, scratch.count, false, true);
  if (workspace != nullptr && workspace->bytes < scratch.count) act.crash = "scratch is too small";
  if (!(backward && op.block == 0))
    for (size_t i = 0; i < block.groups.size(); ++i)
      touch(act, last(op, Role::parameters, static_cast<int>(i)),
            shape_.groups[static_cast<size_t>(block.groups[i])].weight_bytes().count, true, false);
  const int64_t boundary = shape_.boundary_bytes.count;
  if (op.block > 0) touch(act, last(op, Role::input), boundary, true, false);
  if (backward) touch(act, last(op, Role::output_gradient), boundary, true, false);
  for (size_t s = 0; s < block.slots.size(); ++s) {
    act.present.push_back(kept[s] != 0);
    if (kept[s] != 0)
      touch(act, last(op, Role::slot, static_cast<int>(s)), block.slots[s].bytes.count, backward, forward);
  }
  if (forward) touch(act, last(op, Role::output), boundary, false, true);
  if (const Operand* to = last(op, Role::input_gradient)) {
    act.adds = true;
    touch(act, to, boundary, false, true);
  }
  for (size_t i = 0; i < block.groups.size(); ++i) {
    const Operand* to = last(op, Role::gradients, static_cast<int>(i));
    act.present.push_back(to != nullptr);
    const bool adds = !op.accumulate.empty() && op.accumulate[i] != 0;
    if (to != nullptr)
      touch(act, to, shape_.groups[static_cast<size_t>(block.groups[i])].elements * shape_.gradient_bytes_per_element,
            adds, true);
  }
}

// --- one run -------------------------------------------------------------------------------------------------------

RunResult Interpreter::run(const LastingMemory& before, uint64_t garbage, const Timing& timing, Random& random) {
  garbage_ = garbage;
  result_ = {};
  result_.losses.assign(static_cast<size_t>(phase_.micro_batches), 0);
  result_.norms.assign(shape_.groups.size(), 0);
  for (size_t tier = 0; tier < kTierCount; ++tier) fill(memory_[tier], mix(garbage, garbage_page, tier));
  const auto pages_of = [&](const Buffer& buffer) {
    return memory_[static_cast<size_t>(buffer.tier)].begin() + buffer.offset / kPage;
  };
  for (size_t b = 0; b < buffers_.size(); ++b) std::copy(before[b].begin(), before[b].end(), pages_of(buffers_[b]));
  waiting_for_.assign(schedule_.ops.size(), 0);
  for (size_t id = 0; id < acts_.size(); ++id) {
    if (!acts_[id].crash.empty()) result_.failure = "op " + std::to_string(id) + ": " + acts_[id].crash;
    waiting_for_[id] = static_cast<int>(schedule_.ops[id].after.size());
  }
  if (!result_.failure.empty()) return result_;
  next_.fill(0);
  for (auto& queue : queues_) queue.clear();
  running_.clear();
  began_.clear();
  issue();
  size_t ended = 0;
  for (std::vector<Event> events = possible(); !events.empty(); events = possible()) {
    const Event event = choose(events, timing, random);
    ended += event.begins ? 0 : 1;
    event.begins ? begin(event.op) : end(event.op);
  }
  if (ended < acts_.size()) result_.failure = "stalls";
  for (size_t b = 0; b < buffers_.size(); ++b) {
    const auto first_page = pages_of(buffers_[b]);
    result_.lasting.emplace_back(first_page, first_page + static_cast<std::ptrdiff_t>(before[b].size()));
  }
  return result_;
}

void Interpreter::issue() {
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    while (next_[lane] < lanes_[lane].size() && waiting_for_[static_cast<size_t>(lanes_[lane][next_[lane]])] == 0) {
      const OpId id = lanes_[lane][next_[lane]++];
      queues_[static_cast<size_t>(runs_on(schedule_.ops[static_cast<size_t>(id)].kind))].push_back(id);
    }
}

std::vector<Interpreter::Event> Interpreter::possible() const {
  std::vector<Event> events;
  std::array<bool, kLaneCount> busy{};
  for (const OpId id : running_) {
    events.push_back({id, false});
    busy[static_cast<size_t>(runs_on(schedule_.ops[static_cast<size_t>(id)].kind))] = true;
  }
  for (size_t lane = 0; lane < kLaneCount; ++lane) {
    const bool serial = one_after_another(static_cast<Lane>(lane));
    for (const OpId id : queues_[lane]) {
      if (serial && busy[lane]) break;
      events.push_back({id, true});
      if (serial) break;
    }
  }
  return events;
}

Interpreter::Event Interpreter::choose(const std::vector<Event>& events, const Timing& timing, Random& random) const {
  std::vector<Event> now;
  for (const Event& event : events)
    if (event.op != (event.begins ? timing.begins_last : timing.ends_last)) now.push_back(event);
  if (now.empty()) now = events;
  if (timing.mood == Timing::in_turn)
    return *std::min_element(now.begin(), now.end(), [](const Event& a, const Event& b) {
      return std::pair(a.begins, a.op) < std::pair(b.begins, b.op);
    });
  const Event chosen = pick(random, now);
  if (timing.mood == Timing::any || pick(random, 0, 9) == 0) return chosen;
  const bool wanted = timing.mood == Timing::overlapping;
  std::erase_if(now, [&](const Event& event) { return event.begins != wanted; });
  return now.empty() ? chosen : pick(random, now);
}

void Interpreter::begin(OpId id) {
  auto& queue = queues_[static_cast<size_t>(runs_on(schedule_.ops[static_cast<size_t>(id)].kind))];
  queue.erase(std::find(queue.begin(), queue.end(), id));
  running_.push_back(id);
  began_.push_back(id);
  const Act& act = acts_[static_cast<size_t>(id)];
  std::vector<Pages>& held = held_[static_cast<size_t>(id)];
  for (size_t t = 0; t < act.touches.size(); ++t) {
    const Touch& touch = act.touches[t];
    const auto from = memory_[touch.tier].begin() + static_cast<std::ptrdiff_t>(touch.first);
    if (touch.reads)
      held[t].assign(from, from + static_cast<std::ptrdiff_t>(touch.count));
    else
      held[t].assign(touch.count, 0);
  }
  for (const Touch& touch : act.touches)
    if (touch.writes)
      std::fill_n(memory_[touch.tier].begin() + static_cast<std::ptrdiff_t>(touch.first), touch.count,
                  torn(garbage_, id));
}

void Interpreter::end(OpId id) {
  running_.erase(std::find(running_.begin(), running_.end(), id));
  const Act& act = acts_[static_cast<size_t>(id)];
  std::vector<Pages>& values = held_[static_cast<size_t>(id)];
  bool disturbed = false;
  const uint64_t own = torn(garbage_, id);
  for (size_t t = 0; t < act.touches.size(); ++t) {
    const Touch& touch = act.touches[t];
    for (size_t p = 0; p < touch.count; ++p) {
      const uint64_t now = memory_[touch.tier][touch.first + p];
      disturbed |= now != own && (touch.writes || now != values[t][p]);
    }
    if (touch.skew != 0 && touch.reads)
      for (uint64_t& page : values[t]) page = mix(page, touch.skew);
  }
  compute(id, values);
  for (size_t t = 0; t < act.touches.size(); ++t) {
    const Touch& touch = act.touches[t];
    if (!touch.writes) continue;
    for (size_t p = 0; p < touch.count; ++p) {
      uint64_t value = values[t][p];
      if (touch.skew != 0) value = mix(value, touch.skew);
      if (disturbed) value = mix(value, race, garbage_);
      memory_[touch.tier][touch.first + p] = value;
    }
  }
  if (disturbed) {
    const Op& op = schedule_.ops[static_cast<size_t>(id)];
    if (op.kind == OpKind::loss || op.kind == OpKind::loss_only)
      result_.losses[static_cast<size_t>(op.micro_batch)] = garbage_;
    if (op.kind == OpKind::norm) result_.norms[static_cast<size_t>(op.group)] = garbage_;
  }
  for (const OpId dependent : dependents_[static_cast<size_t>(id)]) --waiting_for_[static_cast<size_t>(dependent)];
  issue();
}

// values: what was read, per touch; on return what is written.
void Interpreter::compute(OpId id, std::vector<Pages>& values) {
  const Op& op = schedule_.ops[static_cast<size_t>(id)];
  const uint64_t chunk = mix(static_cast<uint64_t>(op.group), static_cast<uint64_t>(op.begin), op.end);
  switch (op.kind) {
    case OpKind::read:
    case OpKind::write:
    case OpKind::copy_to_device:
    case OpKind::copy_to_host:
      for (size_t p = 0; p < values[1].size(); ++p) values[1][p] = p < values[0].size() ? values[0][p] : garbage_;
      break;
    case OpKind::read_source:
      fill(values[0], mix(source, chunk, op.operands[0].index));
      break;
    case OpKind::unpack:
      fill(values[1], mix(unpacked, chunk, digest(values[0])));
      break;
    case OpKind::init_states: {
      const uint64_t from = values.size() > 1 ? digest(values[0]) : 0;
      fill(values.back(), mix(initial, chunk, from));
      break;
    }
    case OpKind::norm:
      result_.norms[static_cast<size_t>(op.group)] += mix(norm_value, digest(values[0]));
      break;
    case OpKind::update: {
      const uint64_t all = mix(chunk, digest(values[0]), digest(values[1]), digest(values[2]));
      fill(values[0], mix(updated_weights, all));
      fill(values[2], mix(updated_states, all));
      break;
    }
    default:
      finish_compute(op, acts_[static_cast<size_t>(id)], values);
  }
}

void Interpreter::finish_compute(const Op& op, const Act& act, std::vector<Pages>& values) {
  const BlockShape& block = shape_.blocks[static_cast<size_t>(op.block)];
  const bool forward = op.kind == OpKind::forward, backward = op.kind == OpKind::backward;
  size_t t = 0;
  fill(values[t++], mix(garbage_, garbage_page, 77));
  uint64_t inputs = mix(static_cast<uint64_t>(op.block), static_cast<uint64_t>(op.micro_batch));
  if (!(backward && op.block == 0))
    for (size_t i = 0; i < block.groups.size(); ++i) inputs = mix(inputs, digest(values[t++]));
  if (op.block > 0) inputs = mix(inputs, digest(values[t++]));
  uint64_t all = inputs;
  if (backward) all = mix(all, digest(values[t++]));
  for (size_t s = 0; s < block.slots.size(); ++s) {
    // What is not there is recomputed, to the same bits.
    Pages computed(static_cast<size_t>(round_up(block.slots[s].bytes.count, kPage) / kPage));
    fill(computed, mix(saved, inputs, s));
    if (!act.present[s]) {
      all = mix(all, digest(computed));
    } else if (forward) {
      fill(values[t++], mix(saved, inputs, s));
    } else {
      all = mix(all, digest(values[t++]));
    }
  }
  if (forward) fill(values[t++], mix(output, inputs));
  if (!forward && !backward) result_.losses[static_cast<size_t>(op.micro_batch)] = mix(loss_value, inputs);
  if (act.adds) fill(values[t++], mix(backward ? input_gradient : loss_gradient, all));
  for (size_t i = 0; i < block.groups.size(); ++i) {
    if (!act.present[block.slots.size() + i]) continue;
    const bool adds = !op.accumulate.empty() && op.accumulate[i] != 0;
    Pages& pages = values[t++];
    for (size_t p = 0; p < pages.size(); ++p) {
      const uint64_t added = mix(part, all, i, p);
      pages[p] = adds ? mix(pages[p], added) : added;
    }
  }
}

// --- order ---------------------------------------------------------------------------------------------------------

std::vector<Interpreter::Pair> Interpreter::unordered_conflicts() const {
  const size_t count = schedule_.ops.size(), words = (count + 63) / 64;
  std::vector<uint64_t> ended(count * words, 0);  // per op: those that have ended when it begins
  const auto inherit = [&](size_t id, size_t before, bool itself) {
    for (size_t word = 0; word < words; ++word) ended[id * words + word] |= ended[before * words + word];
    if (itself) ended[id * words + before / 64] |= uint64_t{1} << (before % 64);
  };
  struct Use {
    OpId writer = kNone;
    std::vector<OpId> readers;
  };
  std::array<std::vector<Use>, kTierCount> uses;
  for (size_t tier = 0; tier < kTierCount; ++tier) uses[tier].resize(memory_[tier].size());
  std::array<OpId, kLaneCount> previous;
  previous.fill(kNone);
  std::vector<Pair> pairs;
  for (const OpId id : began_) {
    const auto at = static_cast<size_t>(id);
    const Op& op = schedule_.ops[at];
    for (OpId before : op.after) inherit(at, static_cast<size_t>(before), true);
    OpId& in_lane = previous[static_cast<size_t>(op.lane)];
    if (in_lane != kNone && in_lane < id) {
      const Lane lane = runs_on(op.kind);
      const bool same = runs_on(schedule_.ops[static_cast<size_t>(in_lane)].kind) == lane && one_after_another(lane);
      inherit(at, static_cast<size_t>(in_lane), same);
    }
    in_lane = std::max(in_lane, id);
    const auto ordered = [&](OpId other) {
      const auto o = static_cast<size_t>(other);
      return other == id || (ended[at * words + o / 64] >> (o % 64) & 1) != 0;
    };
    for (const Touch& touch : acts_[at].touches)
      for (size_t p = touch.first; p < touch.first + touch.count; ++p) {
        Use& use = uses[touch.tier][p];
        if (use.writer != kNone && !ordered(use.writer)) pairs.push_back({use.writer, id});
        if (touch.writes) {
          for (OpId reader : use.readers)
            if (!ordered(reader)) pairs.push_back({reader, id});
          use = {id, {}};
        } else if (use.writer != id) {
          use.readers.push_back(id);
        }
      }
  }
  std::sort(pairs.begin(), pairs.end(),
            [](const Pair& a, const Pair& b) { return std::pair(a.first, a.second) < std::pair(b.first, b.second); });
  pairs.erase(std::unique(pairs.begin(), pairs.end(),
                          [](const Pair& a, const Pair& b) { return a.first == b.first && a.second == b.second; }),
              pairs.end());
  return pairs;
}

}  // namespace sluice::plan
