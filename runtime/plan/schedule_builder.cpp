#include "runtime/plan/schedule_builder.h"

#include <algorithm>

#include "runtime/core/check.h"
#include "runtime/plan/buffer_names.h"
#include "runtime/plan/group_streams.h"

namespace sluice::plan {
namespace {

class Builder : GroupStreams {
 public:
  Builder(const JobShape& shape, const Plan& plan, const Phase& phase, std::span<const uint8_t> source_low_bits,
          Layout& layout)
      : GroupStreams(shape, plan, phase, source_low_bits, layout), first_trained_block_(blocks()) {
    for (int b = blocks() - 1; b >= 0; --b)
      for (int g : block(b).groups)
        if (group(g).trainable) first_trained_block_ = b;
  }

  Schedule build() {
    switch (phase_.kind) {
      case PhaseKind::load:
      case PhaseKind::restore:
        load();
        break;
      case PhaseKind::train:
        forward_all();
        backward_all();
        break;
      case PhaseKind::redo:
        update_behind_all_again();
        break;
      case PhaseKind::flush:
        update_pending();
        break;
      case PhaseKind::evaluate:
        forward_all();
        break;
    }
    return std::move(schedule_);
  }

 private:
  const BlockPlan& block_plan(int b) const { return plan_.blocks[index(b)]; }
  bool needs_backward(int b) const { return b >= first_trained_block_; }

  // --- activations ---------------------------------------------------------------------------------------------

  // On unified memory the host is the device: both fates leave the slot where it was written.
  SlotFate effective(SlotFate fate) const { return !separate() && fate == SlotFate::host ? SlotFate::keep : fate; }

  struct SavedSlot {
    BufferName name;  // unique: "slot.block.index.micro-batch"
    BufferName ring;  // of its size
    SlotFate fate;
    Tag tag;
    int64_t bytes;
    int b, mb;
  };
  SavedSlot boundary_before(int b, int mb) const {
    return {BufferName("boundary", b, mb),
            BufferName("boundary"),
            effective(block_plan(b).input),
            Tag::boundaries,
            shape_.boundary_bytes.count,
            b,
            mb};
  }
  SavedSlot saved_slot(int b, int s, int mb) const {
    const int64_t bytes = block(b).slots[index(s)].bytes.count;
    return {BufferName("slot", b, s, mb),
            BufferName("slot.ring", s, bytes),
            effective(block_plan(b).slots[index(s)]),
            Tag::activations,
            bytes,
            b,
            mb};
  }

  // Where forward writes a slot that will be wanted again.
  BufferId place(const SavedSlot& slot) {
    if (slot.fate == SlotFate::keep) return layout_.passing(slot.name, device_tier(), slot.tag, slot.bytes);
    return rings_.next(slot.ring.with_end(".out"), 3, device_tier(), slot.tag, slot.bytes);
  }
  void send_away(const SavedSlot& slot, BufferId from) {
    if (slot.fate == SlotFate::host) copy(from, host_home(slot), kNone, slot.b, slot.mb);
    if (slot.fate != SlotFate::disk) return;
    if (separate()) {
      const BufferId passing = rings_.next(slot.ring.with_end(".host"), 3, Tier::host, slot.tag, slot.bytes);
      copy(from, passing, kNone, slot.b, slot.mb);
      from = passing;
    }
    write(from, 0, extent_of(slot), kNone, slot.b, slot.mb);
  }
  BufferId bring_back(const SavedSlot& slot) {
    if (slot.fate == SlotFate::keep) return layout_.passing(slot.name, device_tier(), slot.tag, slot.bytes);
    const BufferId to =
        rings_.next(slot.ring.with_end(".back"), plan_.prefetch + 1, device_tier(), slot.tag, slot.bytes);
    if (slot.fate == SlotFate::host) {
      copy(host_home(slot), to, kNone, slot.b, slot.mb);
    } else if (!separate()) {
      read(extent_of(slot), to, 0, kNone, slot.b, slot.mb);
    } else {
      const BufferId passing = rings_.next(slot.ring.with_end(".host"), 3, Tier::host, slot.tag, slot.bytes);
      read(extent_of(slot), passing, 0, kNone, slot.b, slot.mb);
      copy(passing, to, kNone, slot.b, slot.mb);
    }
    return to;
  }
  BufferId host_home(const SavedSlot& slot) {
    return layout_.passing(slot.name.with_end(".host"), Tier::host, slot.tag, slot.bytes);
  }
  BufferId extent_of(const SavedSlot& slot) {
    return layout_.passing(slot.name.with_end(".disk"), Tier::disk, slot.tag, slot.bytes);
  }

  // The boundary that block b reads in forward.
  BufferId live_boundary(int b, int mb) {
    if (training() && needs_backward(b) && effective(block_plan(b).input) == SlotFate::keep)
      return place(boundary_before(b, mb));
    return layout_.passing(BufferName("boundary.live", b % 2, mb), device_tier(), Tag::boundaries,
                           shape_.boundary_bytes.count);
  }

  std::vector<uint8_t> kept_slots(int b) const {
    std::vector<uint8_t> kept;
    for (const SlotFate fate : block_plan(b).slots)
      kept.push_back(training() && needs_backward(b) && fate != SlotFate::recompute);
    return kept;
  }
  BufferId workspace() {
    if (workspace_ != kNone) return workspace_;
    Bytes most{64};
    for (int b = 0; b < blocks(); ++b) {
      std::vector<uint8_t> kept, none(block(b).slots.size(), 0);
      for (const SlotFate fate : block_plan(b).slots) kept.push_back(fate != SlotFate::recompute);
      for (const auto& mask : {kept, none}) most = std::max(most, block(b).workspace_bytes(ComputePass::forward, mask));
      most = std::max(most, block(b).workspace_bytes(ComputePass::backward, kept));
    }
    return workspace_ = layout_.passing(BufferName("workspace"), device_tier(), Tag::workspace, most.count);
  }

  // --- forward -------------------------------------------------------------------------------------------------

  // Alternate blocks take micro-batches in alternate direction: the last output is the next input.
  std::vector<int> micro_batches(int b) const {
    std::vector<int> order;
    for (int mb = 0; mb < phase_.micro_batches; ++mb) order.push_back(mb);
    if (b % 2 == 1) std::reverse(order.begin(), order.end());
    return order;
  }

  void forward_all() {
    for (int b = 0; b + 1 < blocks(); ++b) {
      const Operands parameters = parameters_of(b);
      for (int mb : micro_batches(b)) forward(b, mb, parameters);
    }
    if (training()) return;
    const Operands parameters = parameters_of(blocks() - 1);
    for (int mb : micro_batches(blocks() - 1)) loss(mb, parameters, OpKind::loss_only);
  }
  Operands parameters_of(int b) {
    Operands operands;
    for (size_t i = 0; i < block(b).groups.size(); ++i)
      operands.push_back(
          whole(Role::parameters, Access::read, device_weights(block(b).groups[i]), static_cast<int>(i)));
    return operands;
  }

  void forward(int b, int mb, const Operands& parameters) {
    Op op{.kind = OpKind::forward, .lane = Lane::compute, .block = b, .micro_batch = mb};
    op.flops = block(b).forward_flops;
    op.time = block(b).forward_time;
    op.operands = parameters;
    if (b > 0) op.operands.push_back(whole(Role::input, Access::read, live_boundary(b, mb)));
    const BufferId output = live_boundary(b + 1, mb);
    op.operands.push_back(whole(Role::output, Access::write, output));
    op.operands.push_back(whole(Role::workspace, Access::read_write, workspace()));
    std::vector<std::pair<SavedSlot, BufferId>> saved;
    const std::vector<uint8_t> kept = kept_slots(b);
    for (int s = 0; s < static_cast<int>(kept.size()); ++s) {
      if (kept[index(s)] == 0) continue;
      saved.emplace_back(saved_slot(b, s, mb), place(saved_slot(b, s, mb)));
      op.operands.push_back(whole(Role::slot, Access::write, saved.back().second, s));
    }
    emit(std::move(op));
    for (const auto& [slot, buffer] : saved) send_away(slot, buffer);
    if (training() && needs_backward(b + 1) && b + 2 < blocks()) send_away(boundary_before(b + 1, mb), output);
  }

  // --- backward ------------------------------------------------------------------------------------------------

  BufferId live_gradient(int mb) {
    return layout_.passing(BufferName("gradient.live", mb), device_tier(), Tag::boundaries,
                           shape_.boundary_bytes.count);
  }

  void backward_all() {
    const int head = blocks() - 1;
    begin_gradients(head);
    const Operands parameters = parameters_of(head);
    for (int mb : micro_batches(head)) loss(mb, parameters, OpKind::loss);
    finish_gradients(head);
    for (int b = head - 1; b >= first_trained_block_; --b) {
      begin_gradients(b);
      // The embedding's backward scatters rows: it reads no weights.
      const Operands weights = b == 0 ? Operands{} : parameters_of(b);
      for (int mb : micro_batches(b)) backward(b, mb, weights);
      update_finished();
      finish_gradients(b);
    }
    update_finished();
  }
  void loss(int mb, const Operands& parameters, OpKind kind) {
    const int head = blocks() - 1;
    Op op{.kind = kind, .lane = Lane::compute, .block = head, .micro_batch = mb};
    op.flops = block(head).forward_flops + (kind == OpKind::loss ? block(head).backward_flops : 0);
    op.time = kind == OpKind::loss ? block(head).backward_time : block(head).forward_time;
    op.operands = parameters;
    op.operands.push_back(whole(Role::input, Access::read, live_boundary(head, mb)));
    op.operands.push_back(whole(Role::workspace, Access::read_write, workspace()));
    if (kind == OpKind::loss) {
      if (first_trained_block_ < head)
        op.operands.push_back(whole(Role::input_gradient, Access::write, live_gradient(mb)));
      add_gradients(head, op);
    }
    emit(std::move(op));
  }

  void backward(int b, int mb, const Operands& parameters) {
    Op op{.kind = OpKind::backward, .lane = Lane::compute, .block = b, .micro_batch = mb};
    op.flops = block(b).backward_flops;
    op.time = block(b).backward_time;
    op.operands = parameters;
    if (b > 0) {
      // What is kept stayed where forward put it; the rest is fetched.
      op.operands.push_back(whole(Role::input, Access::read, bring_back(boundary_before(b, mb))));
    }
    const std::vector<uint8_t> kept = kept_slots(b);
    for (int s = 0; s < static_cast<int>(kept.size()); ++s) {
      if (kept[index(s)] != 0) {
        op.operands.push_back(whole(Role::slot, Access::read, bring_back(saved_slot(b, s, mb)), s));
      } else {
        op.flops += block(b).slots[index(s)].recompute_flops;
        op.time += block(b).slots[index(s)].recompute_time;
      }
    }
    op.operands.push_back(whole(Role::output_gradient, Access::read, live_gradient(mb)));
    if (b > first_trained_block_) op.operands.push_back(whole(Role::input_gradient, Access::write, live_gradient(mb)));
    op.operands.push_back(whole(Role::workspace, Access::read_write, workspace()));
    add_gradients(b, op);
    emit(std::move(op));
  }

  int first_trained_block_;
  BufferId workspace_ = kNone;
};

}  // namespace

Schedule build_schedule(const JobShape& shape, const Plan& plan, const Phase& phase,
                        std::span<const uint8_t> source_low_bits, Layout& layout) {
  SLUICE_CHECK(plan.groups.size() == shape.groups.size() && plan.blocks.size() == shape.blocks.size(),
               "the plan is for another model");
  SLUICE_CHECK(source_low_bits.size() == shape.groups.size(), "one entry per group");
  for (const GroupPlan& group : plan.groups)
    SLUICE_CHECK(!lives_on_device(group) || (plan.memory == DeviceMemory::separate && group.weights == Tier::device &&
                                             group.gradients == Tier::device),
                 "states on the device without their weights and gradients");
  SLUICE_CHECK(plan.chunk_elements % 4096 == 0, "chunks must keep O_DIRECT alignment");
  return Builder(shape, plan, phase, source_low_bits, layout).build();
}

}  // namespace sluice::plan
