#include "tests/unit/plan/reference_interpreter.h"

#include <algorithm>

namespace sluice::plan {
namespace {

// What values are that no op computed.
enum What : uint64_t { unwritten = 100, torn_page, unread_tail, race };

Page torn(uint64_t garbage, OpId id) { return {mix(garbage, torn_page, static_cast<uint64_t>(id))}; }

int64_t bytes_in(const Touch& touch, size_t page) { return page + 1 < touch.count ? kPageBytes : touch.last_bytes; }

}  // namespace

Interpreter::Interpreter(const Schedule& schedule, const Stage& stage)
    : schedule_(schedule), stage_(stage), dependents_(schedule.ops.size()), held_(schedule.ops.size()) {
  for (size_t id = 0; id < schedule.ops.size(); ++id) {
    acts_.push_back(act_of(schedule.ops[id], stage));
    held_[id].resize(acts_.back().touches.size());
    lanes_[static_cast<size_t>(schedule.ops[id].lane)].push_back(static_cast<OpId>(id));
    for (OpId before : schedule.ops[id].after)
      dependents_[static_cast<size_t>(before)].push_back(static_cast<OpId>(id));
  }
  for (size_t tier = 0; tier < kTierCount; ++tier)
    memory_[tier].resize(static_cast<size_t>(stage.capacity[tier].count / kPageBytes) + 2);
  // Mutated buffers may lie beyond their tier.
  for (const Buffer& buffer : stage.buffers) {
    const int64_t bytes = std::max(buffer.bytes, round_up(buffer.wanted_bytes, kPageBytes));
    Pages& pages = memory_[static_cast<size_t>(buffer.tier)];
    pages.resize(std::max(pages.size(), static_cast<size_t>((buffer.offset + bytes) / kPageBytes) + 2));
  }
}

// --- one run -------------------------------------------------------------------------------------------------------

RunResult Interpreter::run(const LastingMemory& before, uint64_t garbage, const Timing& timing, Random& random) {
  for (size_t id = 0; id < acts_.size(); ++id)
    if (!acts_[id].crash.empty()) return {"op " + std::to_string(id) + ": " + acts_[id].crash, {}, {}};
  garbage_ = garbage;
  reset(before);
  issue();
  size_t ended = 0;
  for (std::vector<Event> events = possible(); !events.empty(); events = possible()) {
    const Event event = choose(events, timing, random);
    ended += event.begins ? 0 : 1;
    event.begins ? begin(event.op) : end(event.op);
  }
  return {ended < acts_.size() ? "stalls" : "", lasting(before), observed_};
}

void Interpreter::reset(const LastingMemory& before) {
  observed_.losses.assign(static_cast<size_t>(stage_.phase.micro_batches), 0);
  observed_.norms.assign(stage_.shape.groups.size(), 0);
  for (size_t tier = 0; tier < kTierCount; ++tier) fill(memory_[tier], mix(garbage_, unwritten, tier));
  for (size_t b = 0; b < stage_.buffers.size(); ++b)
    std::copy(before[b].begin(), before[b].end(),
              memory_[static_cast<size_t>(stage_.buffers[b].tier)].begin() + stage_.buffers[b].offset / kPageBytes);
  waiting_for_.assign(schedule_.ops.size(), 0);
  for (size_t id = 0; id < acts_.size(); ++id) waiting_for_[id] = static_cast<int>(schedule_.ops[id].after.size());
  next_.fill(0);
  for (auto& queue : queues_) queue.clear();
  running_.clear();
  began_.clear();
}

LastingMemory Interpreter::lasting(const LastingMemory& before) const {
  LastingMemory after;
  for (size_t b = 0; b < stage_.buffers.size(); ++b) {
    const auto first =
        memory_[static_cast<size_t>(stage_.buffers[b].tier)].begin() + stage_.buffers[b].offset / kPageBytes;
    after.emplace_back(first, first + static_cast<std::ptrdiff_t>(before[b].size()));
  }
  return after;
}

// --- what happens next -----------------------------------------------------------------------------------------------

void Interpreter::issue() {
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    while (next_[lane] < lanes_[lane].size() && waiting_for_[static_cast<size_t>(lanes_[lane][next_[lane]])] == 0) {
      const OpId id = lanes_[lane][next_[lane]++];
      queues_[static_cast<size_t>(runs_on(op(id)))].push_back(id);
    }
}

std::vector<Interpreter::Event> Interpreter::possible() const {
  std::vector<Event> events;
  std::array<bool, kLaneCount> busy{};
  for (const OpId id : running_) {
    events.push_back({id, false});
    busy[static_cast<size_t>(runs_on(op(id)))] = true;
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

// --- an op -----------------------------------------------------------------------------------------------------------

void Interpreter::begin(OpId id) {
  auto& queue = queues_[static_cast<size_t>(runs_on(op(id)))];
  queue.erase(std::find(queue.begin(), queue.end(), id));
  running_.push_back(id);
  began_.push_back(id);
  const Act& act = acts_[static_cast<size_t>(id)];
  for (size_t t = 0; t < act.touches.size(); ++t) {
    const Touch& touch = act.touches[t];
    Pages& held = held_[static_cast<size_t>(id)][t];
    if (touch.reads)
      held.assign(pages_at(touch), pages_at(touch) + touch.count);
    else
      held.assign(touch.count, {});
  }
  for (const Touch& touch : act.touches)
    if (touch.writes) std::fill_n(pages_at(touch), touch.count, torn(garbage_, id));
}

void Interpreter::end(OpId id) {
  running_.erase(std::find(running_.begin(), running_.end(), id));
  const Act& act = acts_[static_cast<size_t>(id)];
  const bool raced = disturbed(id);
  std::vector<Pages>& values = held_[static_cast<size_t>(id)];
  for (size_t t = 0; t < act.touches.size(); ++t) {
    const Touch& touch = act.touches[t];
    if (!touch.reads) continue;
    for (size_t p = 0; p < touch.count; ++p) {
      Page& page = values[t][p];
      if (touch.skew != 0) page.value = mix(page.value, touch.skew);
      if (!act.moves && page.valid < bytes_in(touch, p)) page.value = mix(page.value, unread_tail, garbage_);
    }
  }
  perform(op(id), act, stage_, garbage_, values, observed_);
  for (size_t t = 0; t < act.touches.size(); ++t) {
    const Touch& touch = act.touches[t];
    if (!touch.writes) continue;
    for (size_t p = 0; p < touch.count; ++p) {
      Page page = values[t][p];
      page.valid = std::min(page.valid, bytes_in(touch, p));
      if (touch.skew != 0) page.value = mix(page.value, touch.skew);
      if (raced) page.value = mix(page.value, race, garbage_);
      pages_at(touch)[p] = page;
    }
  }
  if (raced && (op(id).kind == OpKind::loss || op(id).kind == OpKind::loss_only))
    observed_.losses[static_cast<size_t>(op(id).micro_batch)] = garbage_;
  if (raced && op(id).kind == OpKind::norm) observed_.norms[static_cast<size_t>(op(id).group)] = garbage_;
  for (const OpId dependent : dependents_[static_cast<size_t>(id)]) --waiting_for_[static_cast<size_t>(dependent)];
  issue();
}

// Another op has written what this one reads or writes, while it ran.
bool Interpreter::disturbed(OpId id) {
  const Act& act = acts_[static_cast<size_t>(id)];
  const Page own = torn(garbage_, id);
  for (size_t t = 0; t < act.touches.size(); ++t) {
    const Touch& touch = act.touches[t];
    for (size_t p = 0; p < touch.count; ++p) {
      const Page& now = pages_at(touch)[p];
      if (now != own && (touch.writes || now != held_[static_cast<size_t>(id)][t][p])) return true;
    }
  }
  return false;
}

}  // namespace sluice::plan
