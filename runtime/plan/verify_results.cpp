// Is a safe schedule right? One walk in program order that keeps, for every byte of every tier, which part of the job
// it holds. Homes are learnt by the same walk, over all phases, with memory that starts out unnamed.
#include <algorithm>
#include <optional>
#include <set>

#include "runtime/plan/range_map.h"
#include "runtime/plan/verify.h"

namespace sluice::plan {
namespace {

struct Thing {
  enum Kind : uint8_t {
    nothing,  // never written, or no longer good for anything
    home,     // while learning: what a lasting byte held when the phase began
    staged_weights,
    staged_states,
    weights,            // a: group, c: which of two sets
    states,             // a: group, c: which of two sets; of elements [begin, end)
    gradient,           // a: group
    boundary,           // a: the block that takes it, b: micro-batch
    boundary_gradient,  // of a: the block that gave the boundary, b: micro-batch
    slot,               // a: block, b: micro-batch, c: slot
  };
  Kind kind = nothing;
  int a = kNone, b = kNone, c = kNone;
  int64_t begin = 0, end = 0;
  int version = 0;
  bool operator==(const Thing&) const = default;
  bool lasts() const { return kind == weights || kind == states || kind == gradient; }
};

// Versions. Weights and states: 0 as the phase finds them, one more after each update, kStale from where they are no
// longer kept up to date. Gradients: kPending from the step before, else how many (block, micro-batch) have been added.
constexpr int kStale = -2, kPending = -1;

std::string describe(const Thing& thing) {
  constexpr std::array<const char*, 10> names = {
      "nothing of use", "what the phase found", "weights as stored", "states as stored", "the weights",
      "the states",     "the gradient",         "the boundary",      "the gradient",     "a slot"};
  std::string text = names[static_cast<size_t>(thing.kind)];
  if (thing.lasts()) {
    text += " of group " + std::to_string(thing.a);
    if (thing.kind == Thing::states)
      text += " [" + std::to_string(thing.begin) + ", " + std::to_string(thing.end) + ")";
    text += thing.version == kStale     ? ", outdated"
            : thing.version == kPending ? ", of the step before"
                                        : ", version " + std::to_string(thing.version);
  } else if (thing.b != kNone) {
    text += " of block " + std::to_string(thing.a) + ", micro-batch " + std::to_string(thing.b);
  }
  return text;
}

// A byte at address x is byte x - base of the thing.
struct Content {
  Thing thing;
  int64_t base = 0;
  bool operator==(const Content&) const = default;
};
using Memory = std::array<RangeMap<Content>, kTierCount>;

}  // namespace

struct Homes::Map {
  Memory memory;  // version 0 of each thing
};
Homes::Homes() : map_(std::make_unique<Map>()) {}
Homes::~Homes() = default;
Homes::Homes(Homes&&) noexcept = default;
Homes& Homes::operator=(Homes&&) noexcept = default;

namespace {

class Walk {
 public:
  Walk(const Schedule& schedule, const std::vector<Buffer>& buffers, const JobShape& shape, const Plan& plan,
       const Phase& phase, Homes::Map& homes, bool learning)
      : schedule_(schedule),
        buffers_(buffers),
        shape_(shape),
        plan_(plan),
        phase_(phase),
        homes_(homes),
        learning_(learning) {
    blocks_of_.resize(shape.groups.size());
    for (int b = blocks() - 1; b >= 0; --b)
      for (int g : shape.blocks[index(b)].groups) blocks_of_[index(g)].push_back(b);
    normed_.assign(shape.groups.size(), 0);
    losses_.assign(index(phase.micro_batches), 0);
    each_home([&](Tier tier, int64_t begin, int64_t end, const Content& at_home) {
      memory(tier).assign(begin, end, at_begin(tier, at_home));
    });
  }

  Result<void> check() {
    for (op_id_ = 0; op_id_ < static_cast<OpId>(schedule_.ops.size()); ++op_id_) {
      op_ = &schedule_.ops[index(op_id_)];
      taken_ = 0;
      run();
      if (taken_ != op_->operands.size()) fail("has an operand that its kind does not use, or twice the same");
      if (!result_.ok()) return std::move(result_);
    }
    if (!learning_) check_end();
    return std::move(result_);
  }

 private:
  static size_t index(int i) { return static_cast<size_t>(i); }
  int blocks() const { return static_cast<int>(shape_.blocks.size()); }
  const GroupShape& group(int g) const { return shape_.groups[index(g)]; }
  RangeMap<Content>& memory(Tier tier) { return memory_[static_cast<size_t>(tier)]; }
  const Buffer& buffer(const Operand& operand) const { return buffers_[index(operand.buffer)]; }
  int64_t address(const Operand& operand) const { return buffer(operand).offset + operand.offset; }

  // --- what the phase is to do ---------------------------------------------------------------------------------

  bool loads() const { return phase_.kind == PhaseKind::load || phase_.kind == PhaseKind::restore; }
  bool is_early(int g) const {
    return group(g).trainable && plan_.groups[index(g)].update == UpdateTime::behind_backward;
  }
  // Before forward, of what waits since the step before.
  bool is_updated_before(int g) const {
    const bool waits = is_early(g) ? phase_.early_pending : phase_.pending;
    return group(g).trainable && waits && (phase_.kind == PhaseKind::train || phase_.kind == PhaseKind::flush);
  }
  bool is_updated_behind(int g) const {
    return is_early(g) && (phase_.kind == PhaseKind::redo || (phase_.kind == PhaseKind::train && phase_.early));
  }
  // The version that forward and backward take, and the set that it is in.
  int newest(int g) const { return is_updated_before(g) ? 1 : 0; }
  int set_now(int g) const { return newest_set(plan_, g, phase_.odd); }
  int set_next(int g) const { return is_early(g) && plan_.undoable ? 1 - set_now(g) : set_now(g); }
  bool states_stored(int g) const { return is_early(g) ? phase_.early_states_stored : phase_.states_stored; }
  bool weights_stored(int g) const { return is_early(g) ? phase_.early_weights_stored : phase_.weights_stored; }
  int additions(int g) const { return static_cast<int>(blocks_of_[index(g)].size()) * phase_.micro_batches; }
  // Sums are taken in one order by all plans: from the last block to the first, micro-batches upwards in even blocks
  // and downwards in odd ones.
  int turn(int g, int b, int mb) const {
    const auto& all = blocks_of_[index(g)];
    const auto place = static_cast<int>(std::find(all.begin(), all.end(), b) - all.begin());
    return place * phase_.micro_batches + (b % 2 == 0 ? mb : phase_.micro_batches - 1 - mb);
  }

  static Thing weights(int g, int version, int set) { return {Thing::weights, g, kNone, set, 0, 0, version}; }
  Thing states(int version, int set) const {
    return {Thing::states, op_->group, kNone, set, op_->begin, op_->end, version};
  }
  static Thing gradient(int g, int version) { return {Thing::gradient, g, kNone, kNone, 0, 0, version}; }
  Thing staged(Thing::Kind kind) const { return {kind, op_->group, kNone, kNone, op_->begin, op_->end, 0}; }

  bool stored(Tier tier, const Thing& thing) const {
    if (loads()) return false;
    // An evaluation may come between a gradient and its update.
    if (thing.kind == Thing::gradient)
      return is_updated_before(thing.a) || phase_.kind == PhaseKind::evaluate || phase_.kind == PhaseKind::redo;
    if (group(thing.a).trainable && thing.c != set_now(thing.a)) return false;
    if (tier != Tier::disk) return true;
    return thing.kind == Thing::states ? states_stored(thing.a) : weights_stored(thing.a);
  }
  Content at_begin(Tier tier, Content at_home) const {
    if (!stored(tier, at_home.thing)) return {};
    if (at_home.thing.kind == Thing::gradient) at_home.thing.version = kPending;
    return at_home;
  }
  Content at_end(Tier tier, Content at_home) const {
    Thing& thing = at_home.thing;
    if (thing.kind == Thing::gradient) {
      if (phase_.kind != PhaseKind::train) return at_begin(tier, at_home);
      thing.version = additions(thing.a);
      return at_home;
    }
    if (loads()) {
      if (thing.c != set_now(thing.a)) return {};
      const bool written = tier != Tier::disk || (thing.kind == Thing::states && phase_.kind == PhaseKind::restore);
      return written ? at_home : Content{};
    }
    const int g = thing.a;
    if (is_updated_behind(g) && thing.c == set_next(g)) {
      thing.version = newest(g) + 1;
      return at_home;
    }
    if (!is_updated_before(g) || thing.c != set_now(g)) return at_begin(tier, at_home);
    thing.version = 1;
    return at_home;
  }

  // --- memory --------------------------------------------------------------------------------------------------

  template <class Visit>
  void each_home(const Visit& visit) {
    for (const Tier tier : {Tier::device, Tier::host, Tier::disk})
      for (const Buffer& buffer : buffers_) {
        if (buffer.tier != tier || !buffer.persistent) continue;
        const int64_t end = buffer.offset + buffer.bytes;
        if (learning_) {
          memory(tier).assign(buffer.offset, end, {{Thing::home, static_cast<int>(tier)}, 0});
          lasting_[static_cast<size_t>(tier)].assign(buffer.offset, end, true);
          continue;
        }
        homes(tier).each(buffer.offset, end, [&](int64_t from, int64_t to, const Content& content) {
          if (content.thing.kind != Thing::nothing) visit(tier, from, to, content);
        });
      }
  }
  RangeMap<Content>& homes(Tier tier) { return homes_.memory[static_cast<size_t>(tier)]; }

  void learn(Tier tier, int64_t begin, int64_t end, Content content) {
    content.thing.version = 0;
    homes(tier).each(begin, end, [&](int64_t, int64_t, Content& known) {
      if (known.thing.kind != Thing::nothing && known != content)
        fail("takes the place of " + describe(known.thing) + " for " + describe(content.thing));
      known = content;
    });
  }

  void expect(const Operand& operand, int64_t bytes, const Thing& thing, int64_t thing_offset = 0) {
    const Tier tier = buffer(operand).tier;
    const Content wanted{thing, address(operand) - thing_offset};
    memory(tier).each(address(operand), address(operand) + bytes, [&](int64_t begin, int64_t end, Content& held) {
      if (learning_ && held.thing.kind == Thing::home && thing.lasts()) {
        const int64_t home = begin - held.base;
        learn(static_cast<Tier>(held.thing.a), home, home + end - begin, {thing, home - (begin - wanted.base)});
      } else if (!learning_ && held != wanted) {
        fail("takes " + buffer(operand).name + " for " + describe(thing) + "; it holds " +
             (held.thing == thing ? "another part of it" : describe(held.thing)));
      }
    });
  }
  void put(const Operand& operand, int64_t bytes, const Thing& thing, int64_t thing_offset = 0) {
    put(buffer(operand).tier, address(operand), address(operand) + bytes, {thing, address(operand) - thing_offset});
  }
  void put(Tier tier, int64_t begin, int64_t end, const Content& content) {
    memory(tier).assign(begin, end, content);
    if (!learning_ || !content.thing.lasts()) return;
    std::vector<std::pair<int64_t, int64_t>> places;
    lasting_[static_cast<size_t>(tier)].each(begin, end, [&](int64_t from, int64_t to, bool lasting) {
      if (lasting) places.emplace_back(from, to);
    });
    for (const auto& [from, to] : places) learn(tier, from, to, content);
  }

  // --- operands ------------------------------------------------------------------------------------------------

  const Operand* find(Role role, Access access, int64_t bytes, int i = 0) {
    for (const Operand& operand : op_->operands) {
      if (operand.role != role || operand.index != i) continue;
      ++taken_;
      const bool at_least = role == Role::workspace || buffer(operand).tag == Tag::staging;
      if (operand.access != access) fail("does something else to " + buffer(operand).name + " than it says");
      if (at_least ? operand.bytes < bytes : operand.bytes != bytes)
        fail("touches " + std::to_string(bytes) + " bytes of " + buffer(operand).name + " and says " +
             std::to_string(operand.bytes));
      return result_.ok() ? &operand : nullptr;
    }
    return nullptr;
  }
  const Operand* need(Role role, Access access, int64_t bytes, int i = 0) {
    const Operand* found = find(role, access, bytes, i);
    if (found == nullptr) fail("lacks an operand that its kind needs");
    return found;
  }

  // --- ops -----------------------------------------------------------------------------------------------------

  void run() {
    switch (op_->kind) {
      case OpKind::read_source:
        return read_source();
      case OpKind::unpack:
        return chunk_of_group() ? unpack() : void();
      case OpKind::init_states:
        return chunk_of_group() ? init_states() : void();
      case OpKind::read:
      case OpKind::write:
      case OpKind::copy_to_device:
      case OpKind::copy_to_host:
        return move();
      case OpKind::norm:
        return known_group() ? norm() : void();
      case OpKind::update:
        return chunk_of_group() ? update() : void();
      case OpKind::duplicate:
        return known_group() ? duplicate() : void();
      case OpKind::forward:
      case OpKind::backward:
      case OpKind::loss:
      case OpKind::loss_only:
        return compute();
    }
  }

  bool known_group() {
    const bool known = op_->group >= 0 && op_->group < static_cast<int>(shape_.groups.size());
    if (!known) fail("is of no group");
    return known;
  }
  bool chunk_of_group() {
    if (!known_group()) return false;
    const bool inside = op_->begin >= 0 && op_->begin < op_->end && op_->end <= group(op_->group).elements;
    if (!inside) fail("is of no part of its group");
    return inside;
  }
  int64_t elements() const { return op_->end - op_->begin; }
  int64_t weights_each() const { return group(op_->group).weight_bytes_per_element; }
  int64_t states_bytes() const { return elements() * group(op_->group).state_bytes_per_element; }

  // Staging holds aligned supersets of unknown length: all that was read is one thing.
  void read_source() {
    if (!chunk_of_group()) return;
    const Operand& staging = op_->operands.empty() ? Operand{} : op_->operands[0];
    const bool is_states = staging.index != 0;
    const int64_t bytes = is_states ? states_bytes() : group(op_->group).staging_bytes.count;
    const Operand* to = need(Role::destination, Access::write, bytes, staging.index);
    if (to != nullptr) put(*to, to->bytes, staged(is_states ? Thing::staged_states : Thing::staged_weights));
  }
  void unpack() {
    const int64_t offset = op_->begin * weights_each(), bytes = elements() * weights_each();
    const Operand* from = need(Role::source, Access::read, group(op_->group).staging_bytes.count);
    const Operand* to = need(Role::destination, Access::write, bytes);
    if (from == nullptr || to == nullptr) return;
    expect(*from, from->bytes, staged(Thing::staged_weights));
    const bool outdated = group(op_->group).trainable && weights_stored(op_->group);
    put(*to, bytes, weights(op_->group, outdated ? kStale : 0, set_now(op_->group)), offset);
  }
  void init_states() {
    const Operand* to = need(Role::destination, Access::write, states_bytes());
    const bool restores = phase_.kind == PhaseKind::restore;
    const Operand* from =
        find(Role::source, Access::read, restores ? states_bytes() : group(op_->group).staging_bytes.count);
    if (from == nullptr && restores) fail("lacks the states of the checkpoint");
    if (to == nullptr) return;
    if (from != nullptr) expect(*from, from->bytes, staged(restores ? Thing::staged_states : Thing::staged_weights));
    put(*to, states_bytes(), states(states_stored(op_->group) ? kStale : 0, set_now(op_->group)));
  }

  // Bytes go on being what they are, wherever they are: `as` says what they become else. A transfer's padding is
  // nothing.
  void move() {
    move([](Content&) {});
  }
  template <class As>
  void move(const As& as) {
    const Operand &from = op_->operands[0], &to = op_->operands[1];
    taken_ = 2;
    struct Piece {
      int64_t begin, end;
      Content content;
    };
    std::vector<Piece> pieces;
    const int64_t shift = address(to) - address(from);
    memory(buffer(from).tier)
        .each(address(from), address(from) + from.bytes, [&](int64_t begin, int64_t end, Content held) {
          held.base += shift;
          if (held.thing.kind == Thing::nothing) held = {};
          as(held);
          pieces.push_back({begin + shift, end + shift, held});
        });
    const int64_t padded = address(to) + round_up(to.bytes, 4096);
    if (op_->lane == Lane::read || op_->lane == Lane::write) put(buffer(to).tier, address(to) + to.bytes, padded, {});
    for (const Piece& piece : pieces) put(buffer(to).tier, piece.begin, piece.end, piece.content);
  }

  // From the newest set to the one that an update behind backward will write.
  void duplicate() {
    const int g = op_->group;
    if (!is_updated_behind(g) || set_next(g) == set_now(g)) return fail("copies what has no second set");
    move([&](Content& held) {
      const bool newest_of_group = held.thing.lasts() && held.thing.a == g && held.thing.version == newest(g);
      if (!learning_ && !newest_of_group) fail("copies " + describe(held.thing));
      if (held.thing.lasts()) held.thing.c = set_next(g);
    });
  }

  void norm() {
    const int g = op_->group;
    const int64_t bytes = group(g).elements * shape_.gradient_bytes_per_element;
    if (const Operand* of = need(Role::gradients, Access::read, bytes)) expect(*of, bytes, gradient(g, additions(g)));
    if (normed_[index(g)]++ > 0) fail("counts a gradient twice");
  }

  void update() {
    const int g = op_->group;
    const int64_t weight_bytes = elements() * weights_each(), weight_offset = op_->begin * weights_each();
    const int64_t each = shape_.gradient_bytes_per_element;
    const Operand* parameters = need(Role::parameters, Access::read_write, weight_bytes);
    const Operand* gradients = need(Role::gradients, Access::read, elements() * each);
    const Operand* state = need(Role::states, Access::read_write, states_bytes());
    if (parameters == nullptr || gradients == nullptr || state == nullptr) return;
    if (op_->early ? !is_updated_behind(g) : !is_updated_before(g)) return fail("updates what is not to be updated");
    const int from = op_->early ? newest(g) : 0, into = op_->early ? set_next(g) : set_now(g);
    const bool of_this_step = op_->early && phase_.kind == PhaseKind::train;
    expect(*parameters, weight_bytes, weights(g, from, set_held(*parameters, g)), weight_offset);
    expect(*gradients, elements() * each, gradient(g, of_this_step ? additions(g) : kPending), op_->begin * each);
    expect(*state, states_bytes(), states(from, set_held(*state, g)));
    put(*parameters, weight_bytes, weights(g, from + 1, into), weight_offset);
    put(*state, states_bytes(), states(from + 1, into));
  }
  // An update takes the newest set where it streams, or the copy of it that it will overwrite.
  int set_held(const Operand& operand, int g) {
    int set = set_now(g);
    const Tier tier = buffer(operand).tier;
    memory(tier).each(address(operand), address(operand) + 1, [&](int64_t, int64_t, Content& held) {
      if (op_->early && held.thing.lasts() && held.thing.a == g && held.thing.c == set_next(g)) set = set_next(g);
    });
    return set;
  }

  // --- compute -------------------------------------------------------------------------------------------------

  void compute() {
    const int b = op_->block, mb = op_->micro_batch;
    const bool loss = op_->kind == OpKind::loss || op_->kind == OpKind::loss_only;
    if (b < 0 || b >= blocks() || mb < 0 || mb >= phase_.micro_batches || loss != (b == blocks() - 1))
      return fail("is of no block or micro-batch of the phase");
    if (!op_->accumulate.empty() && op_->accumulate.size() != shape_.blocks[index(b)].groups.size())
      return fail("does not say of every group whether its gradient is added");
    take_parameters(b);
    const int64_t boundary_bytes = shape_.boundary_bytes.count;
    if (b > 0)
      if (const Operand* input = need(Role::input, Access::read, boundary_bytes))
        expect(*input, boundary_bytes, {Thing::boundary, b, mb});
    if (op_->kind == OpKind::backward) take_for_backward(b, mb);
    if (op_->kind == OpKind::backward || op_->kind == OpKind::loss) {
      if (const Operand* to = find(Role::input_gradient, Access::write, boundary_bytes))
        give(*to, boundary_bytes, {Thing::boundary_gradient, b - 1, mb});
      add_gradients(b, mb);
    }
    if (op_->kind == OpKind::forward) give_forward(b, mb);
    if (loss && losses_[index(mb)]++ > 0) fail("counts a loss twice");
    take_workspace(b);
    for (const auto& [operand, bytes, thing] : given_) put(*operand, bytes, thing);
    given_.clear();
  }
  void give(const Operand& to, int64_t bytes, const Thing& thing) { given_.push_back({&to, bytes, thing}); }

  // The embedding's backward scatters rows: it reads no weights.
  void take_parameters(int b) {
    const std::vector<int>& groups = shape_.blocks[index(b)].groups;
    for (size_t i = 0; i < groups.size(); ++i) {
      const int g = groups[i];
      const int64_t bytes = group(g).weight_bytes().count;
      const bool optional = b == 0 && op_->kind == OpKind::backward;
      const Operand* operand = optional ? find(Role::parameters, Access::read, bytes, static_cast<int>(i))
                                        : need(Role::parameters, Access::read, bytes, static_cast<int>(i));
      if (operand != nullptr) expect(*operand, bytes, weights(g, newest(g), group(g).trainable ? set_now(g) : 0));
    }
  }
  void take_for_backward(int b, int mb) {
    const int64_t bytes = shape_.boundary_bytes.count;
    if (const Operand* from = need(Role::output_gradient, Access::read, bytes))
      expect(*from, bytes, {Thing::boundary_gradient, b, mb});
    each_slot(b, Access::read, [&](const Operand& operand, int64_t slot_bytes, int s) {
      expect(operand, slot_bytes, {Thing::slot, b, mb, s});
    });
  }
  void give_forward(int b, int mb) {
    const int64_t bytes = shape_.boundary_bytes.count;
    if (const Operand* to = need(Role::output, Access::write, bytes)) give(*to, bytes, {Thing::boundary, b + 1, mb});
    each_slot(b, Access::write, [&](const Operand& operand, int64_t slot_bytes, int s) {
      give(operand, slot_bytes, {Thing::slot, b, mb, s});
    });
  }
  template <class Visit>
  void each_slot(int b, Access access, const Visit& visit) {
    const std::vector<SlotShape>& slots = shape_.blocks[index(b)].slots;
    for (size_t s = 0; s < slots.size(); ++s)
      if (const Operand* operand = find(Role::slot, access, slots[s].bytes.count, static_cast<int>(s)))
        visit(*operand, slots[s].bytes.count, static_cast<int>(s));
  }
  void add_gradients(int b, int mb) {
    const std::vector<int>& groups = shape_.blocks[index(b)].groups;
    for (size_t i = 0; i < groups.size(); ++i) {
      const int g = groups[i];
      if (!group(g).trainable) continue;
      const bool add = !op_->accumulate.empty() && op_->accumulate[i] != 0;
      const int64_t bytes = group(g).elements * shape_.gradient_bytes_per_element;
      const Operand* to = need(Role::gradients, add ? Access::read_write : Access::write, bytes, static_cast<int>(i));
      if (to == nullptr) return;
      const int before = turn(g, b, mb);
      if (add != (before > 0))
        return fail("begins or adds to the gradient of group " + std::to_string(g) + " out of turn");
      if (add) expect(*to, bytes, gradient(g, before));
      give(*to, bytes, gradient(g, before + 1));
    }
  }
  void take_workspace(int b) {
    const BlockShape& block = shape_.blocks[index(b)];
    std::vector<uint8_t> kept(block.slots.size(), 0);
    for (const Operand& operand : op_->operands)
      if (operand.role == Role::slot && operand.index >= 0 && index(operand.index) < kept.size())
        kept[index(operand.index)] = 1;
    Bytes bytes = block.workspace_bytes(
        op_->kind == OpKind::forward || op_->kind == OpKind::loss_only ? ComputePass::forward : ComputePass::backward,
        kept);
    if (const Operand* scratch = need(Role::workspace, Access::read_write, std::max<int64_t>(bytes.count, 1)))
      put(*scratch, scratch->bytes, {});
  }

  // --- the end -------------------------------------------------------------------------------------------------

  void check_end() {
    op_ = nullptr;
    each_home([&](Tier tier, int64_t begin, int64_t end, const Content& at_home) {
      const Content wanted = at_end(tier, at_home);
      memory(tier).each(begin, end, [&](int64_t, int64_t, const Content& held) {
        if (held.thing != wanted.thing || (held.thing.kind != Thing::nothing && held.base != wanted.base))
          fail("leaves " + describe(held.thing) + " where " + describe(wanted.thing) + " should be");
      });
    });
    const bool trains = phase_.kind == PhaseKind::train;
    for (int g = 0; g < static_cast<int>(shape_.groups.size()); ++g)
      if (trains && group(g).trainable && normed_[index(g)] == 0)
        fail("never takes the norm of the gradient of group " + std::to_string(g));
    for (size_t mb = 0; mb < losses_.size(); ++mb)
      if ((trains || phase_.kind == PhaseKind::evaluate) && losses_[mb] == 0)
        fail("never takes the loss of micro-batch " + std::to_string(mb));
  }

  void fail(const std::string& what) {
    if (!result_.ok()) return;
    std::string where = "schedule '" + schedule_.name + "'";
    if (op_ != nullptr) where += ", op " + std::to_string(op_id_) + " (" + plan::describe(*op_) + ")";
    result_ = Error{ErrorCode::capacity, where + ": " + what,
                    "this is a bug in the schedule builder: please report it with --dry-run's output"};
  }

  struct Given {
    const Operand* operand;
    int64_t bytes;
    Thing thing;
  };

  const Schedule& schedule_;
  const std::vector<Buffer>& buffers_;
  const JobShape& shape_;
  const Plan& plan_;
  const Phase& phase_;
  Homes::Map& homes_;
  const bool learning_;
  Memory memory_;
  std::array<RangeMap<bool>, kTierCount> lasting_;  // while learning
  std::vector<std::vector<int>> blocks_of_;         // per group: the blocks that use it, last first
  std::vector<int> normed_, losses_;
  OpId op_id_ = 0;
  const Op* op_ = nullptr;
  size_t taken_ = 0;
  std::vector<Given> given_;  // written when the op ends
  Result<void> result_;
};

}  // namespace

Result<Homes> homes_of(const std::map<Phase, Schedule>& schedules, const std::vector<Buffer>& buffers,
                       const JobShape& shape, const Plan& plan) {
  Homes homes;
  for (const auto& [phase, schedule] : schedules)
    if (Result<void> learnt = Walk(schedule, buffers, shape, plan, phase, homes.map(), true).check(); !learnt.ok())
      return learnt.error();
  return homes;
}

Result<void> verify(const Schedule& schedule, const std::vector<Buffer>& buffers,
                    const std::array<Bytes, kTierCount>& capacity, const JobShape& shape, const Plan& plan,
                    const Phase& phase, const Homes& homes) {
  if (Result<void> safe = verify(schedule, buffers, capacity); !safe.ok()) return safe;
  Homes::Map known = homes.map();
  return Walk(schedule, buffers, shape, plan, phase, known, false).check();
}

}  // namespace sluice::plan
