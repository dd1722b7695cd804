#include "tests/unit/plan/op_act.h"

#include <algorithm>

namespace sluice::plan {
namespace {

const Operand* first(const Op& op, Role role) {
  for (const Operand& operand : op.operands)
    if (operand.role == role) return &operand;
  return nullptr;
}
const Operand* last(const Op& op, Role role) {
  const Operand* found = nullptr;
  for (const Operand& operand : op.operands)
    if (operand.role == role) found = &operand;
  return found;
}
const Operand* last(const Op& op, Role role, size_t index) {
  const Operand* found = nullptr;
  for (const Operand& operand : op.operands)
    if (operand.role == role && operand.index == static_cast<int>(index)) found = &operand;
  return found;
}

// By the optimizer's workers, or by the device where all of a group is there.
bool done_beside_passes(OpKind kind) {
  return kind == OpKind::norm || kind == OpKind::update || kind == OpKind::duplicate;
}

class Actor {
 public:
  Actor(const Op& op, const Stage& stage) : op_(op), stage_(stage), shape_(stage.shape) {}

  Act act() {
    for (const Operand& operand : op_.operands) {
      const Buffer& of = buffer(operand);
      if (of.offset + of.bytes > capacity(of.tier)) crash("a buffer does not fit its tier");
    }
    switch (op_.kind) {
      case OpKind::read:
      case OpKind::write:
        transfer();
        return std::move(act_);
      case OpKind::copy_to_device:
      case OpKind::copy_to_host:
      case OpKind::duplicate:
        copy();
        break;
      case OpKind::read_source:
      case OpKind::unpack:
      case OpKind::init_states:
      case OpKind::norm:
      case OpKind::update:
        if (known_elements()) act_on_group(shape_.groups[static_cast<size_t>(op_.group)]);
        break;
      case OpKind::forward:
      case OpKind::backward:
      case OpKind::loss:
      case OpKind::loss_only:
        if (known_pass()) compute(shape_.blocks[static_cast<size_t>(op_.block)]);
        break;
    }
    if (std::any_of(op_.operands.begin(), op_.operands.end(),
                    [&](const Operand& operand) { return buffer(operand).tier == Tier::disk; }))
      crash("the disk is not memory");
    const Tier reachable = op_.lane == Lane::compute ? Tier::device : Tier::host;
    if (done_beside_passes(op_.kind) &&
        std::any_of(op_.operands.begin(), op_.operands.end(),
                    [&](const Operand& operand) { return buffer(operand).tier != reachable; }))
      crash("who does this does not reach its operands");
    return std::move(act_);
  }

 private:
  const Buffer& buffer(const Operand& operand) const { return stage_.buffers[static_cast<size_t>(operand.buffer)]; }
  int64_t capacity(Tier tier) const { return stage_.capacity[static_cast<size_t>(tier)].count; }
  void crash(const char* why) { act_.crash = why; }

  enum class Way { reads, writes, reads_and_writes };
  void touch(const Operand* operand, int64_t bytes, Way way) {
    if (operand == nullptr) return crash("lacks an operand");
    const int64_t address = buffer(*operand).offset + operand->offset, end = address + bytes;
    if (address < 0 || bytes < 0 || end > capacity(buffer(*operand).tier)) return crash("leaves its tier");
    const int64_t begin_page = address / kPageBytes, end_page = round_up(end, kPageBytes) / kPageBytes;
    act_.touches.push_back({static_cast<size_t>(buffer(*operand).tier), static_cast<size_t>(begin_page),
                            static_cast<size_t>(end_page - begin_page), end - (end_page - 1) * kPageBytes,
                            way != Way::writes, way != Way::reads, static_cast<uint64_t>(address % kPageBytes)});
  }

  // --- moves ---------------------------------------------------------------------------------------------------

  void transfer() {
    act_.moves = true;
    const bool reads = op_.kind == OpKind::read;
    const Operand *from = first(op_, Role::source), *to = first(op_, Role::destination);
    const Operand *extent = reads ? from : to, *memory = reads ? to : from;
    if (extent == nullptr || memory == nullptr || buffer(*extent).tier != Tier::disk ||
        buffer(*memory).tier != Tier::host || (buffer(*memory).offset + memory->offset) % kPageBytes != 0)
      return crash("no such transfer");
    const int64_t bytes = round_up(buffer(*extent).wanted_bytes, kPageBytes);
    if (round_up(memory->bytes, kPageBytes) < bytes) crash("memory shorter than the extent");
    const Operand whole{Role::source, Access::read, 0, extent->buffer, 0, 0};
    touch(reads ? &whole : memory, bytes, Way::reads);
    touch(reads ? memory : &whole, bytes, Way::writes);
  }
  void copy() {
    act_.moves = true;
    const Operand *from = first(op_, Role::source), *to = first(op_, Role::destination);
    if (from == nullptr || to == nullptr) return crash("lacks an operand");
    touch(from, from->bytes, Way::reads);
    touch(to, from->bytes, Way::writes);
  }

  // --- chunks of a group -----------------------------------------------------------------------------------------

  bool known_elements() {
    const bool known = op_.group >= 0 && op_.group < static_cast<int>(shape_.groups.size()) && op_.begin >= 0 &&
                       (op_.kind == OpKind::norm
                            ? op_.begin == 0
                            : op_.begin < op_.end && op_.end <= shape_.groups[static_cast<size_t>(op_.group)].elements);
    if (!known) crash("no such elements");
    return known;
  }
  void act_on_group(const GroupShape& group) {
    const int64_t elements = op_.end - op_.begin, states_bytes = group.states.bytes(op_.begin, op_.end);
    // Tensors of a checkpoint, each an aligned superset.
    const int64_t stored_states_bytes = states_bytes + kStateParts * 8192;
    const int64_t weights_bytes = elements * group.weight_bytes_per_element;
    const Operand *from = first(op_, Role::source), *to = first(op_, Role::destination);
    const Operand* gradients = first(op_, Role::gradients);
    if (op_.kind == OpKind::read_source) {
      if (to == nullptr) return crash("lacks an operand");
      const int64_t bytes = to->index != 0 ? stored_states_bytes : group.staging_bytes.count;
      if ((buffer(*to).offset + to->offset) % kPageBytes != 0 || bytes > buffer(*to).bytes)
        crash("staging is too small");
      touch(to, bytes, Way::writes);
    } else if (op_.kind == OpKind::unpack) {
      touch(from, group.staging_bytes.count, Way::reads);
      touch(to, weights_bytes, Way::writes);
    } else if (op_.kind == OpKind::init_states) {
      const bool restores = stage_.phase.kind == PhaseKind::restore;
      if (from != nullptr) touch(from, restores ? stored_states_bytes : group.staging_bytes.count, Way::reads);
      touch(to, states_bytes, Way::writes);
    } else if (op_.kind == OpKind::norm) {
      touch(gradients, group.elements * shape_.gradient_bytes_per_element, Way::reads);
    } else {
      touch(first(op_, Role::parameters), weights_bytes, Way::reads_and_writes);
      touch(gradients, elements * shape_.gradient_bytes_per_element, Way::reads);
      touch(first(op_, Role::states), states_bytes, Way::reads_and_writes);
    }
  }

  // --- compute ---------------------------------------------------------------------------------------------------

  bool known_pass() {
    const bool loss = op_.kind == OpKind::loss || op_.kind == OpKind::loss_only;
    const bool known = op_.block >= 0 && op_.block < static_cast<int>(shape_.blocks.size()) && op_.micro_batch >= 0 &&
                       op_.micro_batch < stage_.phase.micro_batches &&
                       loss == (op_.block + 1 == static_cast<int>(shape_.blocks.size()));
    if (!known) {
      crash("no such pass");
      return false;
    }
    const BlockShape& block = shape_.blocks[static_cast<size_t>(op_.block)];
    for (const Operand& operand : op_.operands) {
      const size_t most = operand.role == Role::slot ? block.slots.size() : block.groups.size();
      const bool indexed =
          operand.role == Role::parameters || operand.role == Role::gradients || operand.role == Role::slot;
      if (indexed && (operand.index < 0 || static_cast<size_t>(operand.index) >= most)) crash("no such argument");
    }
    if (!op_.accumulate.empty() && op_.accumulate.size() != block.groups.size()) crash("another block's sums");
    return act_.crash.empty();
  }

  // Touches, in this order: scratch, parameters, input, [gradient of the output], slots there, [output],
  // [gradient of the input], gradients there.
  void compute(const BlockShape& block) {
    const bool forward = op_.kind == OpKind::forward, backward = op_.kind == OpKind::backward;
    touch_scratch(block);
    // The embedding's backward scatters rows: it reads no weights.
    if (!(backward && op_.block == 0))
      for (size_t i = 0; i < block.groups.size(); ++i)
        touch(last(op_, Role::parameters, i), group_of(block, i).weight_bytes().count, Way::reads);
    const int64_t boundary = shape_.boundary_bytes.count;
    if (op_.block > 0) touch(last(op_, Role::input), boundary, Way::reads);
    if (backward) touch(last(op_, Role::output_gradient), boundary, Way::reads);
    for (size_t s = 0; s < block.slots.size(); ++s) {
      const Operand* slot = forward || backward ? last(op_, Role::slot, s) : nullptr;
      act_.present.push_back(slot != nullptr);
      if (slot != nullptr) touch(slot, block.slots[s].bytes.count, forward ? Way::writes : Way::reads);
    }
    if (forward) touch(last(op_, Role::output), boundary, Way::writes);
    act_.gives_input = !forward && last(op_, Role::input_gradient) != nullptr;
    if (act_.gives_input) touch(last(op_, Role::input_gradient), boundary, Way::writes);
    for (size_t i = 0; i < block.groups.size(); ++i) {
      const Operand* to = forward ? nullptr : last(op_, Role::gradients, i);
      act_.present.push_back(to != nullptr);
      const bool adds = !op_.accumulate.empty() && op_.accumulate[i] != 0;
      if (to != nullptr)
        touch(to, group_of(block, i).elements * shape_.gradient_bytes_per_element,
              adds ? Way::reads_and_writes : Way::writes);
    }
  }
  void touch_scratch(const BlockShape& block) {
    std::vector<uint8_t> kept;
    for (size_t s = 0; s < block.slots.size(); ++s) kept.push_back(last(op_, Role::slot, s) != nullptr);
    const bool forward = op_.kind == OpKind::forward || op_.kind == OpKind::loss_only;
    const int64_t bytes = block.workspace_bytes(forward ? ComputePass::forward : ComputePass::backward, kept).count;
    const Operand* workspace = last(op_, Role::workspace);
    touch(workspace, bytes, Way::writes);
    if (workspace != nullptr && workspace->bytes < bytes) crash("scratch is too small");
  }
  const GroupShape& group_of(const BlockShape& block, size_t i) const {
    return shape_.groups[static_cast<size_t>(block.groups[i])];
  }

  const Op& op_;
  const Stage& stage_;
  const JobShape& shape_;
  Act act_;
};

// --- values ----------------------------------------------------------------------------------------------------------

// What each value is.
enum What : uint64_t {
  source,
  unpacked,
  initial,
  output,
  saved,
  scratch,
  loss_value,
  loss_gradient,
  input_gradient,
  part,
  norm_value,
  updated_weights,
  updated_states
};

void perform_compute(const Op& op, const Act& act, const BlockShape& block, uint64_t garbage,
                     std::vector<Pages>& values, Observed& observed) {
  const bool forward = op.kind == OpKind::forward, backward = op.kind == OpKind::backward;
  size_t t = 0;
  fill(values[t++], mix(scratch, garbage));
  uint64_t inputs = mix(static_cast<uint64_t>(op.block), static_cast<uint64_t>(op.micro_batch));
  if (!(backward && op.block == 0))
    for (size_t i = 0; i < block.groups.size(); ++i) inputs = mix(inputs, digest(values[t++]));
  if (op.block > 0) inputs = mix(inputs, digest(values[t++]));
  uint64_t all = inputs;
  if (backward) all = mix(all, digest(values[t++]));
  for (size_t s = 0; s < block.slots.size(); ++s) {
    // What is not there is recomputed, to the same bits.
    Pages computed(static_cast<size_t>(round_up(block.slots[s].bytes.count, kPageBytes) / kPageBytes));
    fill(computed, mix(saved, inputs, s));
    if (act.present[s] && forward) {
      fill(values[t++], mix(saved, inputs, s));
    } else {
      all = mix(all, digest(act.present[s] ? values[t++] : computed));
    }
  }
  if (forward) fill(values[t++], mix(output, inputs));
  if (!forward && !backward) observed.losses[static_cast<size_t>(op.micro_batch)] = mix(loss_value, inputs);
  if (act.gives_input) fill(values[t++], mix(backward ? input_gradient : loss_gradient, all));
  for (size_t i = 0; i < block.groups.size(); ++i) {
    if (!act.present[block.slots.size() + i]) continue;
    const bool adds = !op.accumulate.empty() && op.accumulate[i] != 0;
    Pages& pages = values[t++];
    for (size_t p = 0; p < pages.size(); ++p) {
      const uint64_t added = mix(part, all, i, p);
      pages[p] = {adds ? mix(pages[p].value, added) : added};
    }
  }
}

}  // namespace

Lane runs_on(const Op& op) {
  const OpKind kind = op.kind;
  if (kind == OpKind::read_source || kind == OpKind::read) return Lane::read;
  if (kind == OpKind::write) return Lane::write;
  if (kind == OpKind::copy_to_device) return Lane::h2d;
  if (kind == OpKind::copy_to_host) return Lane::d2h;
  if (done_beside_passes(kind)) return op.lane == Lane::compute ? Lane::compute : Lane::optim;
  return kind == OpKind::unpack || kind == OpKind::init_states ? Lane::optim : Lane::compute;
}

Act act_of(const Op& op, const Stage& stage) { return Actor(op, stage).act(); }

void perform(const Op& op, const Act& act, const Stage& stage, uint64_t garbage, std::vector<Pages>& values,
             Observed& observed) {
  const uint64_t chunk = mix(static_cast<uint64_t>(op.group), static_cast<uint64_t>(op.begin), op.end);
  if (act.moves) {
    for (size_t p = 0; p < values[1].size(); ++p) values[1][p] = p < values[0].size() ? values[0][p] : Page{garbage};
  } else if (op.kind == OpKind::read_source) {
    fill(values[0], mix(source, chunk, op.operands[0].index));
  } else if (op.kind == OpKind::unpack) {
    fill(values[1], mix(unpacked, chunk, digest(values[0])));
  } else if (op.kind == OpKind::init_states) {
    fill(values.back(), mix(initial, chunk, values.size() > 1 ? digest(values[0]) : 0));
  } else if (op.kind == OpKind::norm) {
    observed.norms[static_cast<size_t>(op.group)] += mix(norm_value, digest(values[0]));
  } else if (op.kind == OpKind::update) {
    const uint64_t settings = op.early ? stage.settings.early_update : stage.settings.update;
    const uint64_t all = mix(chunk, settings, digest(values[0]), digest(values[1]), digest(values[2]));
    fill(values[0], mix(updated_weights, all));
    fill(values[2], mix(updated_states, all));
  } else {
    perform_compute(op, act, stage.shape.blocks[static_cast<size_t>(op.block)], garbage, values, observed);
  }
}

}  // namespace sluice::plan
