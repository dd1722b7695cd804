#include "tests/unit/plan/mutate.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

namespace sluice::plan {
namespace {

constexpr int64_t kPage = 4096;

class Mutator {
 public:
  Mutator(const Schedule& schedule, const std::vector<Buffer>& buffers, const std::array<Bytes, kTierCount>& capacity,
          Random& random)
      : mutated_{schedule, buffers, capacity, {}, false}, random_(random) {}

  std::optional<Mutated> apply(Mutation mutation) {
    if (!change(mutation)) return std::nullopt;
    mutated_.what = std::string(name_of(mutation)) + ": " + mutated_.what;
    return std::move(mutated_);
  }

 private:
  std::vector<Op>& ops() { return mutated_.schedule.ops; }
  Op& op(size_t id) { return ops()[id]; }
  Buffer& buffer(BufferId id) { return mutated_.buffers[static_cast<size_t>(id)]; }
  size_t any_op() {
    return *any_op([](const Op&) { return true; });
  }
  // An op for which `fits`, or none. Half the time any kind is as likely as any other, as some are rare.
  std::optional<size_t> any_op(const std::function<bool(const Op&)>& fits) {
    std::vector<size_t> all;
    for (size_t id = 0; id < ops().size(); ++id)
      if (fits(op(id))) all.push_back(id);
    if (all.empty()) return std::nullopt;
    if (chance(2)) {
      std::set<OpKind> kinds;
      for (size_t id : all) kinds.insert(op(id).kind);
      const OpKind kind = pick(random_, std::vector<OpKind>(kinds.begin(), kinds.end()));
      std::erase_if(all, [&](size_t id) { return op(id).kind != kind; });
    }
    return pick(random_, all);
  }
  Operand& any_operand(Op& of) {
    return of.operands[static_cast<size_t>(pick(random_, 0, static_cast<int64_t>(of.operands.size()) - 1))];
  }
  bool chance(int64_t one_in) { return pick(random_, 1, one_in) == 1; }
  void say(size_t id, const std::string& what) {
    mutated_.what = "op " + std::to_string(id) + " (" + describe(op(id)) + ") " + what;
  }
  int64_t pages(int64_t most) { return kPage * pick(random_, 1, std::max<int64_t>(most, 1)); }

  bool change(Mutation mutation) {
    if (ops().empty()) return false;
    switch (mutation) {
      case Mutation::drop_dependency:
        return drop_dependencies(false);
      case Mutation::drop_all_dependencies:
        return drop_dependencies(true);
      case Mutation::swap_ops:
        return swap(true);
      case Mutation::swap_places:
        return swap(false);
      case Mutation::change_lane:
        return change_lane();
      case Mutation::shrink_tier:
        return shrink_tier();
      case Mutation::move_buffer:
        return move_buffer();
      case Mutation::resize_buffer:
        return resize_buffer();
      case Mutation::free_early:
        return free_early();
      case Mutation::shift_range:
        return shift_range();
      case Mutation::change_access:
        return change_access();
      case Mutation::drop_op:
        return drop_op();
      case Mutation::duplicate_op:
        return duplicate_op();
      case Mutation::flip_accumulate:
        return flip_accumulate();
      case Mutation::relabel:
        return relabel();
      case Mutation::two_at_once:
        return two_at_once();
    }
    return false;
  }

  bool drop_dependencies(bool all) {
    const auto id = any_op([](const Op& each) { return !each.after.empty(); });
    if (!id) return false;
    auto& after = op(*id).after;
    if (all) {
      after.clear();
      say(*id, "waits for nothing");
      return true;
    }
    const auto at = static_cast<std::ptrdiff_t>(pick(random_, 0, static_cast<int64_t>(after.size()) - 1));
    say(*id, "no longer waits for op " + std::to_string(after[static_cast<size_t>(at)]));
    after.erase(after.begin() + at);
    return true;
  }

  // `place[old]` is where the op of that id goes; kNone: nowhere, and who waited for it waits for what it waited for.
  void renumber(const std::vector<OpId>& place) {
    std::vector<Op> moved(ops().size());
    for (size_t id = 0; id < ops().size(); ++id) {
      if (place[id] == kNone) continue;
      OpIds after;
      for (OpId before : op(id).after)
        if (place[static_cast<size_t>(before)] != kNone) after.push_back(place[static_cast<size_t>(before)]);
      std::sort(after.begin(), after.end());
      after.erase(std::unique(after.begin(), after.end()), after.end());
      op(id).after = std::move(after);
      moved[static_cast<size_t>(place[id])] = op(id);
    }
    moved.resize(static_cast<size_t>(std::count_if(place.begin(), place.end(), [](OpId id) { return id != kNone; })));
    ops() = std::move(moved);
  }

  bool swap(bool dependencies_follow) {
    const size_t a = any_op();
    // Near ones are the likelier mistake.
    const size_t b = chance(3) ? any_op() : std::min(a + static_cast<size_t>(pick(random_, 1, 8)), ops().size() - 1);
    if (a == b) return false;
    say(a, "changes places with op " + std::to_string(b) + " (" + describe(op(b)) + ")");
    if (!dependencies_follow) {
      std::swap(op(a), op(b));
      std::swap(op(a).after, op(b).after);
      return true;
    }
    std::vector<OpId> place(ops().size());
    std::iota(place.begin(), place.end(), 0);
    std::swap(place[a], place[b]);
    renumber(place);
    return true;
  }

  bool change_lane() {
    const size_t id = any_op();
    const auto lane = static_cast<Lane>(pick(random_, 0, kLaneCount - 1));
    if (lane == op(id).lane) return false;
    say(id, "goes to lane " + std::string(name_of(lane)));
    op(id).lane = lane;
    if (chance(2)) return true;
    erase_if(op(id).after, [&](OpId before) { return op(static_cast<size_t>(before)).lane == lane; });
    for (Op& each : ops())
      if (each.lane == lane) erase_if(each.after, [&](OpId before) { return before == static_cast<OpId>(id); });
    return true;
  }

  bool shrink_tier() {
    const auto tier = static_cast<size_t>(pick(random_, 0, kTierCount - 1));
    Bytes& capacity = mutated_.capacity[tier];
    if (capacity.count == 0) return false;
    const int64_t less = chance(4) ? pick(random_, 1, capacity.count) : pages(8);
    mutated_.what = std::string(name_of(static_cast<Tier>(tier))) + " loses " + std::to_string(less) + " bytes";
    capacity = Bytes{std::max<int64_t>(capacity.count - less, 0)};
    return true;
  }

  // A buffer that the schedule uses.
  BufferId any_buffer() { return any_operand(op(any_op())).buffer; }

  bool move_buffer() {
    const BufferId id = any_buffer();
    Buffer& moved = buffer(id);
    std::vector<int64_t> to;
    for (const Buffer& other : mutated_.buffers)
      if (other.tier == moved.tier && other.offset != moved.offset) to.push_back(other.offset);
    to.push_back(moved.offset + pages(4));
    to.push_back(std::max<int64_t>(moved.offset - pages(4), 0));
    if (chance(3)) to = {moved.offset + pages(2), moved.offset + 64};
    const int64_t offset = pick(random_, to);
    mutated_.what = moved.name.text() + " goes from " + std::to_string(moved.offset) + " to " + std::to_string(offset);
    if (offset == moved.offset) return false;
    moved.offset = offset;
    mutated_.buffers_changed = true;
    return true;
  }

  bool resize_buffer() {
    Buffer& resized = buffer(any_buffer());
    const int64_t bytes = chance(2) ? resized.bytes + pages(8) : std::max<int64_t>(resized.bytes - pages(4), 0);
    mutated_.what =
        resized.name.text() + " has " + std::to_string(bytes) + " bytes, not " + std::to_string(resized.bytes);
    resized.bytes = bytes;
    mutated_.buffers_changed = true;
    return true;
  }

  bool free_early() {
    const size_t id = any_op();
    Operand& operand = any_operand(op(id));
    const Buffer& now = buffer(operand.buffer);
    std::vector<BufferId> others, neighbours;
    for (BufferId b = 0; b < static_cast<BufferId>(mutated_.buffers.size()); ++b) {
      if (b == operand.buffer || buffer(b).tier != now.tier || buffer(b).bytes < operand.offset + operand.bytes)
        continue;
      others.push_back(b);
      if (buffer(b).tag == now.tag && buffer(b).wanted_bytes == now.wanted_bytes) neighbours.push_back(b);
    }
    if (others.empty()) return false;
    const BufferId other = !neighbours.empty() && !chance(4) ? pick(random_, neighbours) : pick(random_, others);
    say(id, "takes " + buffer(other).name.text() + " for " + now.name.text());
    const BufferId old = operand.buffer;
    const bool whole_op = chance(4);
    for (Operand& each : op(id).operands)
      if (&each == &operand || (whole_op && each.buffer == old)) each.buffer = other;
    return true;
  }

  bool shift_range() {
    const size_t id = any_op();
    Operand& operand = any_operand(op(id));
    const int64_t by = chance(6) ? 64 : pages(4);
    say(id, "touches another range of " + buffer(operand.buffer).name.text() + " than bytes " +
                std::to_string(operand.offset) + " + " + std::to_string(operand.bytes));
    switch (pick(random_, 0, 3)) {
      case 0:
        operand.offset += by;
        break;
      case 1:
        if (operand.offset < by) return false;
        operand.offset -= by;
        break;
      case 2:
        operand.bytes += by;
        break;
      default:
        if (operand.bytes <= by) return false;
        operand.bytes -= by;
    }
    return true;
  }

  bool change_access() {
    const size_t id = any_op();
    Operand& operand = any_operand(op(id));
    const auto access = static_cast<Access>(pick(random_, 0, 2));
    if (access == operand.access) return false;
    say(id, "says otherwise what it does to " + buffer(operand.buffer).name.text());
    operand.access = access;
    // Whoever orders ops by what they say orders them less.
    if (access == Access::read && chance(3)) drop_needless_dependencies(static_cast<OpId>(id));
    if (access == Access::read && chance(2)) op(id).after.clear();
    return true;
  }

  void drop_needless_dependencies(OpId id) {
    Op& changed = op(static_cast<size_t>(id));
    erase_if(changed.after, [&](OpId before) { return !conflict(op(static_cast<size_t>(before)), changed); });
    for (Op& each : ops())
      if (!conflict(changed, each)) erase_if(each.after, [&](OpId before) { return before == id; });
  }
  static bool conflict(const Op& a, const Op& b) {
    for (const Operand& one : a.operands)
      for (const Operand& other : b.operands)
        if (one.buffer == other.buffer && (one.access != Access::read || other.access != Access::read)) return true;
    return false;
  }

  bool drop_op() {
    const size_t id = any_op();
    say(id, "is gone");
    const bool bridge = chance(2);
    for (Op& each : ops())
      if (bridge && std::find(each.after.begin(), each.after.end(), static_cast<OpId>(id)) != each.after.end())
        each.after.append(op(id).after.begin(), op(id).after.end());
    std::vector<OpId> place(ops().size());
    for (size_t each = 0; each < place.size(); ++each)
      place[each] = each == id ? kNone : static_cast<OpId>(each > id ? each - 1 : each);
    renumber(place);
    return true;
  }

  bool duplicate_op() {
    const size_t id = any_op();
    const size_t at =
        chance(2)
            ? id + 1
            : static_cast<size_t>(pick(random_, static_cast<int64_t>(id) + 1, static_cast<int64_t>(ops().size())));
    say(id, "comes again at " + std::to_string(at));
    Op again = op(id);
    if (chance(2)) again.after = {static_cast<OpId>(id)};
    // Waiting for all before it, it races with nothing earlier.
    if (chance(2))
      for (size_t before = 0; before < at; ++before) again.after.push_back(static_cast<OpId>(before));
    std::sort(again.after.begin(), again.after.end());
    again.after.erase(std::unique(again.after.begin(), again.after.end()), again.after.end());
    for (Op& each : ops())
      for (OpId& before : each.after) before += before >= static_cast<OpId>(at);
    ops().insert(ops().begin() + static_cast<std::ptrdiff_t>(at), std::move(again));
    // And half the time nothing later races with it.
    if (chance(2))
      for (size_t later = at + 1; later < ops().size(); ++later) op(later).after.push_back(static_cast<OpId>(at));
    return true;
  }

  bool flip_accumulate() {
    const auto id = any_op([](const Op& each) { return !each.accumulate.empty(); });
    if (!id) return false;
    auto& flags = op(*id).accumulate;
    const auto i = static_cast<size_t>(pick(random_, 0, static_cast<int64_t>(flags.size()) - 1));
    say(*id, "begins a sum that it added to, or the other way round");
    flags[i] = flags[i] == 0 ? 1 : 0;
    for (Operand& operand : op(*id).operands)
      if (operand.role == Role::gradients && operand.index == static_cast<int>(i) && chance(2))
        operand.access = flags[i] == 0 ? Access::write : Access::read_write;
    return true;
  }

  bool relabel() {
    const auto id = any_op([](const Op& each) { return each.lane == Lane::compute || each.group != kNone; });
    if (!id) return false;
    Op& changed = op(*id);
    say(*id, "is called something else");
    if (changed.block == kNone || changed.kind == OpKind::norm) return relabel_elements(changed);
    std::vector<Operand*> arguments;
    for (Operand& operand : changed.operands)
      if (operand.role == Role::parameters || operand.role == Role::gradients || operand.role == Role::slot)
        arguments.push_back(&operand);
    if (arguments.empty() || chance(2)) {
      (chance(3) ? changed.block : changed.micro_batch) += chance(2) ? 1 : -1;
    } else {
      Operand& argument = *pick(random_, arguments);
      argument.index += argument.index > 0 && chance(2) ? -1 : 1;
    }
    return true;
  }
  bool relabel_elements(Op& changed) {
    const int64_t by = chance(2) ? kPage : 64;
    if (changed.kind == OpKind::update && chance(3)) {
      changed.early = !changed.early;
    } else if (chance(2)) {
      changed.group += chance(2) ? 1 : -1;
    } else if (chance(2)) {
      changed.begin += chance(2) ? by : -by;
    } else {
      changed.end += chance(2) ? by : -by;
    }
    return true;
  }

  bool two_at_once() {
    const auto any = [&] { return static_cast<Mutation>(pick(random_, 0, kMutationCount - 2)); };
    if (!change(any())) return false;
    const std::string first = mutated_.what;
    if (!change(any())) return false;
    mutated_.what = first + "; then " + mutated_.what;
    return true;
  }

  Mutated mutated_;
  Random& random_;
};

}  // namespace

std::string_view name_of(Mutation mutation) {
  constexpr std::array<std::string_view, kMutationCount> names = {
      "drop_dependency", "drop_all_dependencies", "swap_ops",   "swap_places", "change_lane",   "shrink_tier",
      "move_buffer",     "resize_buffer",         "free_early", "shift_range", "change_access", "drop_op",
      "duplicate_op",    "flip_accumulate",       "relabel",    "two_at_once"};
  return names[static_cast<size_t>(mutation)];
}

std::optional<Mutated> mutate(Mutation mutation, const Schedule& schedule, const std::vector<Buffer>& buffers,
                              const std::array<Bytes, kTierCount>& capacity, Random& random) {
  return Mutator(schedule, buffers, capacity, random).apply(mutation);
}

}  // namespace sluice::plan
