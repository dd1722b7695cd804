// Is a safe schedule right? One walk in program order that keeps, for every byte of every tier, which part of the job
// it holds. Homes are learnt by the same walk, over all phases, with memory that starts out unnamed.
#include <algorithm>

#include "runtime/plan/job_memory.h"
#include "runtime/plan/op_order.h"
#include "runtime/plan/phase_task.h"
#include "runtime/plan/verify.h"

namespace sluice::plan {
namespace {

class Walk {
 public:
  Walk(const Schedule& schedule, const std::vector<Buffer>& buffers, const JobShape& shape, const Plan& plan,
       const Phase& phase, Homes::Map& homes, bool learning)
      : schedule_(schedule),
        buffers_(buffers),
        shape_(shape),
        phase_(phase),
        task_(shape, plan, phase),
        learning_(learning),
        memory_(buffers, task_, homes, learning) {
    normed_.assign(shape.groups.size(), 0);
    losses_.assign(index(phase.micro_batches), 0);
  }

  Result<void> check() {
    for (op_id_ = 0; op_id_ < static_cast<OpId>(schedule_.ops.size()); ++op_id_) {
      op_ = &schedule_.ops[index(op_id_)];
      taken_ = 0;
      if (names_buffers()) run();
      if (!memory_.problem().empty()) fail(memory_.problem());
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
  const Buffer& buffer(const Operand& operand) const { return buffers_[index(operand.buffer)]; }

  // Homes are learnt before anything has been checked.
  bool names_buffers() {
    for (const Operand& operand : op_->operands)
      if (operand.buffer < 0 || index(operand.buffer) >= buffers_.size()) {
        fail("names a buffer that does not exist");
        return false;
      }
    return true;
  }

  // --- things --------------------------------------------------------------------------------------------------

  static Thing weights(int g, int version, int set) { return {Thing::weights, g, kNone, set, 0, 0, version}; }
  Thing states(int version, int set) const {
    return {Thing::states, op_->group, kNone, set, op_->begin, op_->end, version};
  }
  static Thing gradient(int g, int version) { return {Thing::gradient, g, kNone, kNone, 0, 0, version}; }
  Thing staged(Thing::Kind kind) const { return {kind, op_->group, kNone, kNone, op_->begin, op_->end, 0}; }

  void expect(const Operand& operand, int64_t bytes, const Thing& thing, int64_t thing_offset = 0) {
    memory_.expect(operand, bytes, thing, thing_offset);
  }
  void put(const Operand& operand, int64_t bytes, const Thing& thing, int64_t thing_offset = 0) {
    memory_.put(operand, bytes, thing, thing_offset);
  }

  // --- operands ------------------------------------------------------------------------------------------------

  const Operand* find(Role role, Access access, int64_t bytes, int i = 0) {
    for (const Operand& operand : op_->operands) {
      if (operand.role != role || operand.index != i) continue;
      ++taken_;
      const bool at_least = role == Role::workspace || buffer(operand).tag == Tag::staging;
      if (operand.access != access) fail("does something else to " + buffer(operand).name.text() + " than it says");
      if (at_least ? operand.bytes < bytes : operand.bytes != bytes)
        fail("touches " + std::to_string(bytes) + " bytes of " + buffer(operand).name.text() + " and says " +
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
  int64_t states_bytes() const { return group(op_->group).states.bytes(op_->begin, op_->end); }

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
    const bool outdated = group(op_->group).trainable && task_.weights_stored(op_->group);
    put(*to, bytes, weights(op_->group, outdated ? kStale : 0, task_.set_now(op_->group)), offset);
  }
  void init_states() {
    const Operand* to = need(Role::destination, Access::write, states_bytes());
    const bool restores = phase_.kind == PhaseKind::restore;
    const Operand* from =
        find(Role::source, Access::read, restores ? states_bytes() : group(op_->group).staging_bytes.count);
    if (from == nullptr && restores) fail("lacks the states of the checkpoint");
    if (to == nullptr) return;
    if (from != nullptr) expect(*from, from->bytes, staged(restores ? Thing::staged_states : Thing::staged_weights));
    put(*to, states_bytes(), states(task_.states_stored(op_->group) ? kStale : 0, task_.set_now(op_->group)));
  }

  void move() {
    if (op_->operands.size() != 2) return fail("must have a source and a destination");
    const Operand &from = op_->operands[0], &to = op_->operands[1];
    taken_ = 2;
    memory_.move(from, to, is_transfer(op_->lane) ? round_up(to.bytes, 4096) : to.bytes);
  }

  // From the newest set to the one that an update behind backward will write.
  void duplicate() {
    const int g = op_->group;
    if (op_->operands.size() != 2) return fail("must have a source and a destination");
    if (!task_.is_updated_behind(g) || task_.set_next(g) == task_.set_now(g))
      return fail("copies what has no second set");
    taken_ = 2;
    memory_.move(op_->operands[0], op_->operands[1], op_->operands[1].bytes, [&](Thing& held) {
      const bool newest_of_group = held.lasts() && held.a == g && held.version == task_.newest(g);
      if (!learning_ && !newest_of_group) fail("copies " + describe(held));
      if (held.lasts()) held.c = task_.set_next(g);
    });
  }

  void norm() {
    const int g = op_->group;
    if (op_->begin != 0) return fail("takes the norm of a part of a gradient");
    const int64_t bytes = group(g).elements * shape_.gradient_bytes_per_element;
    if (const Operand* of = need(Role::gradients, Access::read, bytes))
      expect(*of, bytes, gradient(g, task_.additions(g)));
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
    if (op_->early ? !task_.is_updated_behind(g) : !task_.is_updated_before(g))
      return fail("updates what is not to be updated");
    const int from = op_->early ? task_.newest(g) : 0, into = op_->early ? task_.set_next(g) : task_.set_now(g);
    expect(*parameters, weight_bytes, weights(g, from, set_held(*parameters)), weight_offset);
    expect(*gradients, elements() * each, gradient(g, task_.gradient_for_update(g, op_->early)), op_->begin * each);
    expect(*state, states_bytes(), states(from, set_held(*state)));
    put(*parameters, weight_bytes, weights(g, from + 1, into), weight_offset);
    put(*state, states_bytes(), states(from + 1, into));
  }
  // An update takes the newest set where it streams, or the copy of it that it will overwrite.
  int set_held(const Operand& operand) {
    const int g = op_->group;
    const Thing& held = memory_.first(operand);
    const bool copied = op_->early && held.lasts() && held.a == g && held.c == task_.set_next(g);
    return copied ? task_.set_next(g) : task_.set_now(g);
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
      if (operand != nullptr) expect(*operand, bytes, weights(g, task_.newest(g), task_.set_now(g)));
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
      const int before = task_.turn(g, b, mb);
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
    memory_.check_end();
    if (!memory_.problem().empty()) fail(memory_.problem());
    for (int g = 0; g < static_cast<int>(shape_.groups.size()); ++g)
      if (task_.trains() && group(g).trainable && normed_[index(g)] == 0)
        fail("never takes the norm of the gradient of group " + std::to_string(g));
    for (size_t mb = 0; mb < losses_.size(); ++mb)
      if (task_.takes_losses() && losses_[mb] == 0) fail("never takes the loss of micro-batch " + std::to_string(mb));
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
  const Phase& phase_;
  const PhaseTask task_;
  const bool learning_;
  JobMemory memory_;
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
