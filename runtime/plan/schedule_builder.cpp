#include "runtime/plan/schedule_builder.h"

#include <algorithm>
#include <map>
#include <set>

#include "runtime/core/check.h"
#include "runtime/plan/buffer_names.h"
#include "runtime/plan/op_emitter.h"

namespace sluice::plan {
namespace {

class Builder : OpEmitter {
 public:
  Builder(const JobShape& shape, const Plan& plan, const Phase& phase, std::span<const uint8_t> source_low_bits,
          Layout& layout)
      : OpEmitter(name_of(phase), layout), shape_(shape), plan_(plan), phase_(phase), low_bits_(source_low_bits) {
    block_of_first_use_.assign(shape.groups.size(), kNone);
    for (int b = 0; b < blocks(); ++b)
      for (int g : block(b).groups) {
        auto& first = block_of_first_use_[index(g)];
        if (first == kNone) first = b;
        uses_[g] += 1;
      }
    for (int g = 0; g < groups(); ++g) groups_of_size_[group(g).elements] += 1;
    for (int b = 0; b < blocks(); ++b) {
      std::map<int64_t, int> here;
      for (int g : block(b).groups) here[group(g).elements] += 1;
      for (const auto& [elements, count] : here) used_together_[elements] = std::max(used_together_[elements], count);
    }
    for (const GroupShape& each : shape.groups) {
      staging_bytes_ = std::max(staging_bytes_, each.staging_bytes.count);
      if (each.trainable)
        states_chunk_bytes_ =
            std::max(states_chunk_bytes_, std::min(each.elements, plan_.chunk_elements) * each.state_bytes_per_element);
    }
    first_trained_block_ = blocks();
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
        for (int g = 0; g < groups(); ++g)
          if (is_early(g)) update_behind(g);
        break;
      case PhaseKind::flush:
        for (int g = 0; g < groups(); ++g)
          if (is_pending(g)) refresh_weights(g);
        break;
      case PhaseKind::evaluate:
        forward_all();
        break;
    }
    return std::move(schedule_);
  }

 private:
  static size_t index(int i) { return static_cast<size_t>(i); }
  int blocks() const { return static_cast<int>(shape_.blocks.size()); }
  int groups() const { return static_cast<int>(shape_.groups.size()); }
  const BlockShape& block(int b) const { return shape_.blocks[index(b)]; }
  const GroupShape& group(int g) const { return shape_.groups[index(g)]; }
  const GroupPlan& group_plan(int g) const { return plan_.groups[index(g)]; }
  const BlockPlan& block_plan(int b) const { return plan_.blocks[index(b)]; }
  bool separate() const { return plan_.memory == DeviceMemory::separate; }
  bool training() const { return phase_.kind == PhaseKind::train; }
  bool training_or_evaluating() const { return training() || phase_.kind == PhaseKind::evaluate; }
  Tier device_tier() const { return separate() ? Tier::device : Tier::host; }
  int64_t gradient_bytes(int g) const { return group(g).elements * shape_.gradient_bytes_per_element; }
  bool needs_backward(int b) const { return b >= first_trained_block_; }

  // --- two sets of what is updated behind backward -------------------------------------------------------------------

  bool is_early(int g) const { return group(g).trainable && group_plan(g).update == UpdateTime::behind_backward; }
  bool is_pending(int g) const { return group(g).trainable && (is_early(g) ? phase_.early_pending : phase_.pending); }
  bool states_stored(int g) const { return is_early(g) ? phase_.early_states_stored : phase_.states_stored; }
  bool weights_stored(int g) const { return is_early(g) ? phase_.early_weights_stored : phase_.weights_stored; }
  int newest(int g) const { return newest_set(plan_, g, phase_.odd); }
  // Where an update behind backward writes.
  int next_set(int g) const { return plan_.undoable ? 1 - newest(g) : newest(g); }
  // Its gradient goes straight into the update: no home, as nothing will ask for it again.
  bool gradient_is_passing(int g) const { return is_early(g) && !plan_.undoable; }
  bool gradient_at_home(int g) const { return group_plan(g).gradients != Tier::disk && !gradient_is_passing(g); }

  // --- chunks of a group ---------------------------------------------------------------------------------------

  struct Chunk {
    int number;
    int64_t begin, end;
    int64_t elements() const { return end - begin; }
  };
  std::vector<Chunk> chunks(int g) const {
    std::vector<Chunk> all;
    for (int64_t begin = 0; begin < group(g).elements; begin += plan_.chunk_elements)
      all.push_back({static_cast<int>(all.size()), begin, std::min(begin + plan_.chunk_elements, group(g).elements)});
    return all;
  }

  // Weights chunk of the user's files into staging.
  BufferId stage_weights(int g, const Chunk& chunk) {
    const BufferId staging = rings_.next("staging", plan_.chunk_ring, Tier::host, Tag::staging, staging_bytes_);
    Op op{.kind = OpKind::read_source, .lane = Lane::read, .group = g, .begin = chunk.begin, .end = chunk.end};
    op.bytes = chunk.elements() * group(g).weight_bytes_per_element;
    op.operands = {whole(Role::destination, Access::write, staging)};
    emit(std::move(op));
    return staging;
  }
  void unpack(int g, const Chunk& chunk, BufferId staging, BufferId weights) {
    const int64_t each = group(g).weight_bytes_per_element;
    Op op{.kind = OpKind::unpack, .lane = Lane::optim, .group = g, .begin = chunk.begin, .end = chunk.end};
    op.bytes = chunk.elements() * each;
    op.operands = {whole(Role::source, Access::read, staging),
                   part(Role::destination, Access::write, weights, chunk.begin * each, chunk.elements() * each)};
    emit(std::move(op));
  }
  void init_states(int g, const Chunk& chunk, BufferId source, Operand states) {
    Op op{.kind = OpKind::init_states, .lane = Lane::optim, .group = g, .begin = chunk.begin, .end = chunk.end};
    op.bytes = states.bytes;
    op.operands = {states};
    if (source != kNone) op.operands.push_back(whole(Role::source, Access::read, source));
    emit(std::move(op));
  }

  // --- weights -------------------------------------------------------------------------------------------------

  // A host copy of the weights is their home, or the home is the disk.
  bool weights_on_disk(int g) const { return group_plan(g).weights == Tier::disk; }
  bool weights_on_device(int g) const { return separate() && group_plan(g).weights == Tier::device; }
  bool has_host_weights(int g) const { return !weights_on_disk(g) && (!weights_on_device(g) || group(g).trainable); }
  BufferId home_weights(int g, int set) {
    return layout_.lasting(home_weights_name(g, set), Tier::host, Tag::weights, group(g).weight_bytes().count);
  }
  BufferId home_device_weights(int g, int set) {
    return layout_.lasting(of_set(numbered("weights.device", g), set), Tier::device, Tag::weights,
                           group(g).weight_bytes().count);
  }
  BufferId weights_extent(int g, int set) {
    return layout_.lasting(weights_extent_name(g, set), Tier::disk, Tag::weights, group(g).weight_bytes().count);
  }

  void fill_from_source(int g, BufferId weights) {
    for (const Chunk& chunk : chunks(g)) unpack(g, chunk, stage_weights(g, chunk), weights);
  }

  // A host buffer that holds the weights as they were after the last update.
  BufferId host_weights(int g) {
    if (has_host_weights(g)) return home_weights(g, newest(g));
    const auto [buffer, hit] = rings_.cached(weights_ring_name(group(g)), ring_depth(g), Tier::host, Tag::weights,
                                             group(g).weight_bytes().count, g);
    if (hit) return buffer;
    if (group(g).trainable && (weights_stored(g) || written_.contains(g))) {
      read(weights_extent(g, newest(g)), buffer, 0, g, kNone, kNone);
    } else {
      fill_from_source(g, buffer);
    }
    return buffer;
  }
  int groups_of_size(int g) const { return groups_of_size_.at(group(g).elements); }
  // Groups of this size that one block uses, the most of all blocks: a ring must hold them together.
  int used_together(int g) const {
    const auto found = used_together_.find(group(g).elements);
    return found == used_together_.end() ? 0 : found->second;
  }
  // How many groups of this size are fetched ahead: no more than there are.
  int ring_depth(int g) const { return std::min(std::max(plan_.prefetch + 1, used_together(g)), groups_of_size(g)); }
  // An update behind backward takes the gradients from the ring while the next block's backward writes its own.
  int gradient_ring_blocks() const {
    return !separate() && updates_behind_backward(plan_) ? std::max(2, plan_.gradient_ring) : plan_.gradient_ring;
  }
  int gradient_ring_depth(int g, int blocks) const { return std::min(blocks * used_together(g), groups_of_size(g)); }

  BufferId device_weights(int g) {
    if (training_or_evaluating() && is_pending(g) && !updated_.contains(g)) refresh_weights(g);
    if (!separate()) return host_weights(g);
    if (weights_on_device(g)) return home_device_weights(g, newest(g));
    const auto [buffer, hit] = rings_.cached(numbered("weights.device.ring", group(g).elements), ring_depth(g),
                                             Tier::device, Tag::weights, group(g).weight_bytes().count, g);
    if (!hit) copy(host_weights(g), buffer, g, kNone, kNone);
    return buffer;
  }

  // --- the update ----------------------------------------------------------------------------------------------

  BufferId home_states(int g, int set) {
    return layout_.lasting(host_states_name(g, set), Tier::host, Tag::states,
                           group(g).elements * group(g).state_bytes_per_element);
  }
  BufferId states_extent(int g, const Chunk& chunk, int set) {
    return layout_.lasting(states_extent_name(g, chunk.number, set), Tier::disk, Tag::states,
                           chunk.elements() * group(g).state_bytes_per_element);
  }
  Operand home_states_chunk(int g, const Chunk& chunk, int set, Role role, Access access) {
    const int64_t each = group(g).state_bytes_per_element;
    return part(role, access, home_states(g, set), chunk.begin * each, chunk.elements() * each);
  }
  Operand ring_states_chunk(int g, const Chunk& chunk, Role role, Access access) {
    const BufferId buffer = rings_.next("states.ring", plan_.chunk_ring, Tier::host, Tag::states, states_chunk_bytes_);
    return part(role, access, buffer, 0, chunk.elements() * group(g).state_bytes_per_element);
  }
  BufferId gradients_extent(int g, const Chunk& chunk) {
    return layout_.lasting(numbered("gradients.disk", g, chunk.number), Tier::disk, Tag::gradients,
                           chunk.elements() * shape_.gradient_bytes_per_element);
  }
  BufferId home_gradients(int g) {
    return layout_.lasting(numbered("gradients.host", g), Tier::host, Tag::gradients, gradient_bytes(g));
  }
  Operand gradients_chunk(int g, const Chunk& chunk) {
    const int64_t each = shape_.gradient_bytes_per_element;
    if (finished_.contains(g))
      return part(Role::gradients, Access::read, finished_.at(g), chunk.begin * each, chunk.elements() * each);
    if (group_plan(g).gradients != Tier::disk)
      return part(Role::gradients, Access::read, home_gradients(g), chunk.begin * each, chunk.elements() * each);
    const BufferId buffer =
        rings_.next("gradients.chunk.ring", plan_.chunk_ring, Tier::host, Tag::gradients, plan_.chunk_elements * each);
    read(gradients_extent(g, chunk), buffer, 0, g, kNone, kNone);
    return part(Role::gradients, Access::read, buffer, 0, chunk.elements() * each);
  }

  // Brings the weights to the host, updates them chunk by chunk in place, and sends home what lives elsewhere.
  void refresh_weights(int g) {
    update_group(g, host_weights(g), newest(g), /*early=*/false);
    updated_.insert(g);
  }
  // The same from the newest set into the other one, where there are two.
  void update_behind(int g) {
    BufferId weights = host_weights(g);
    if (has_host_weights(g) && next_set(g) != newest(g)) {
      const BufferId other = home_weights(g, next_set(g));
      duplicate(g, whole(Role::source, Access::read, weights), whole(Role::destination, Access::write, other));
      weights = other;
    }
    update_group(g, weights, next_set(g), /*early=*/true);
  }
  void duplicate(int g, Operand from, Operand to) {
    Op op{.kind = OpKind::duplicate, .lane = Lane::optim, .group = g, .bytes = 2 * from.bytes};
    op.operands = {from, to};
    emit(std::move(op));
  }
  void update_group(int g, BufferId weights, int into, bool early) {
    const bool on_disk = group_plan(g).states == Tier::disk;
    for (const Chunk& chunk : chunks(g)) {
      const Operand states = on_disk ? ring_states_chunk(g, chunk, Role::states, Access::read_write)
                                     : home_states_chunk(g, chunk, into, Role::states, Access::read_write);
      if (on_disk) {
        fetch_states(g, chunk, states);
      } else if (into != newest(g)) {
        duplicate(g, home_states_chunk(g, chunk, newest(g), Role::source, Access::read),
                  home_states_chunk(g, chunk, into, Role::destination, Access::write));
      }
      update_chunk(g, chunk, weights, states, early);
      if (on_disk) write(states.buffer, 0, states_extent(g, chunk, into), g, kNone, kNone);
    }
    if (weights_on_disk(g)) {
      write(weights, 0, weights_extent(g, into), g, kNone, kNone);
      if (!early) written_.insert(g);
    }
    if (weights_on_device(g)) copy(weights, home_device_weights(g, into), g, kNone, kNone);
  }
  void fetch_states(int g, const Chunk& chunk, const Operand& states) {
    if (states_stored(g) || updated_.contains(g)) {
      read(states_extent(g, chunk, newest(g)), states.buffer, 0, g, kNone, kNone);
      return;
    }
    const BufferId source = low_bits_[index(g)] != 0 ? stage_weights(g, chunk) : kNone;
    init_states(g, chunk, source, part(Role::destination, Access::write, states.buffer, states.offset, states.bytes));
  }
  void update_chunk(int g, const Chunk& chunk, BufferId weights, Operand states, bool early) {
    const int64_t each = group(g).weight_bytes_per_element;
    Op op{.kind = OpKind::update, .lane = Lane::optim, .group = g, .begin = chunk.begin, .end = chunk.end};
    op.early = early;
    const Operand gradients = gradients_chunk(g, chunk);
    op.operands = {part(Role::parameters, Access::read_write, weights, chunk.begin * each, chunk.elements() * each),
                   gradients, states};
    op.bytes = 2 * chunk.elements() * each + gradients.bytes + 2 * states.bytes;
    emit(std::move(op));
  }

  // --- load ----------------------------------------------------------------------------------------------------

  void load() {
    for (int g = 0; g < groups(); ++g) {
      if (!weights_on_disk(g)) load_weights(g);
      if (group(g).trainable) load_states(g);
    }
  }
  void load_weights(int g) {
    if (has_host_weights(g)) {
      fill_from_source(g, home_weights(g, 0));
      if (weights_on_device(g)) copy(home_weights(g, 0), home_device_weights(g, 0), g, kNone, kNone);
      return;
    }
    const BufferId passing = rings_.next(numbered("weights.load.ring", group(g).elements), 1, Tier::host, Tag::staging,
                                         group(g).weight_bytes().count);
    fill_from_source(g, passing);
    copy(passing, home_device_weights(g, 0), g, kNone, kNone);
  }
  // States that live in RAM start here; on disk they stay virgin until their first update, unless a checkpoint
  // brings them.
  void load_states(int g) {
    const bool restore = phase_.kind == PhaseKind::restore;
    const bool on_disk = group_plan(g).states == Tier::disk;
    if (on_disk && !restore) return;
    for (const Chunk& chunk : chunks(g)) {
      BufferId source = kNone;
      if (restore) {
        source = stage_states(g, chunk);
      } else if (low_bits_[index(g)] != 0) {
        source = stage_weights(g, chunk);
      }
      const Operand states = on_disk ? ring_states_chunk(g, chunk, Role::destination, Access::write)
                                     : home_states_chunk(g, chunk, 0, Role::destination, Access::write);
      init_states(g, chunk, source, states);
      if (on_disk) write(states.buffer, 0, states_extent(g, chunk, 0), g, kNone, kNone);
    }
  }
  BufferId stage_states(int g, const Chunk& chunk) {
    // Three ranges (m, v, lo), each an aligned superset.
    const int64_t bytes = plan_.chunk_elements * group(g).state_bytes_per_element + 3 * 2 * 4096;
    const BufferId staging = rings_.next("staging.states", 2, Tier::host, Tag::staging, bytes);
    Op op{.kind = OpKind::read_source, .lane = Lane::read, .group = g, .begin = chunk.begin, .end = chunk.end};
    op.bytes = chunk.elements() * group(g).state_bytes_per_element;
    op.operands = {whole(Role::destination, Access::write, staging, /*i=*/1)};
    emit(std::move(op));
    return staging;
  }

  // --- activations ---------------------------------------------------------------------------------------------

  // On unified memory the host is the device: both fates leave the slot where it was written.
  SlotFate effective(SlotFate fate) const { return !separate() && fate == SlotFate::host ? SlotFate::keep : fate; }

  struct SavedSlot {
    std::string name;  // unique: "slot.block.index.micro-batch"
    std::string ring;  // of its size
    SlotFate fate;
    Tag tag;
    int64_t bytes;
    int b, mb;
  };
  SavedSlot boundary_before(int b, int mb) const {
    return {numbered("boundary", b, mb),
            "boundary",
            effective(block_plan(b).input),
            Tag::boundaries,
            shape_.boundary_bytes.count,
            b,
            mb};
  }
  SavedSlot saved_slot(int b, int s, int mb) const {
    const int64_t bytes = block(b).slots[index(s)].bytes.count;
    return {numbered("slot", b, s, mb),
            numbered("slot.ring", s, bytes),
            effective(block_plan(b).slots[index(s)]),
            Tag::activations,
            bytes,
            b,
            mb};
  }

  // Where forward writes a slot that will be wanted again.
  BufferId place(const SavedSlot& slot) {
    if (slot.fate == SlotFate::keep) return layout_.passing(slot.name, device_tier(), slot.tag, slot.bytes);
    return rings_.next(slot.ring + ".out", 3, device_tier(), slot.tag, slot.bytes);
  }
  void send_away(const SavedSlot& slot, BufferId from) {
    if (slot.fate == SlotFate::host) copy(from, host_home(slot), kNone, slot.b, slot.mb);
    if (slot.fate != SlotFate::disk) return;
    if (separate()) {
      const BufferId passing = rings_.next(slot.ring + ".host", 3, Tier::host, slot.tag, slot.bytes);
      copy(from, passing, kNone, slot.b, slot.mb);
      from = passing;
    }
    write(from, 0, extent_of(slot), kNone, slot.b, slot.mb);
  }
  BufferId bring_back(const SavedSlot& slot) {
    if (slot.fate == SlotFate::keep) return layout_.passing(slot.name, device_tier(), slot.tag, slot.bytes);
    const BufferId to = rings_.next(slot.ring + ".back", plan_.prefetch + 1, device_tier(), slot.tag, slot.bytes);
    if (slot.fate == SlotFate::host) {
      copy(host_home(slot), to, kNone, slot.b, slot.mb);
    } else if (!separate()) {
      read(extent_of(slot), to, 0, kNone, slot.b, slot.mb);
    } else {
      const BufferId passing = rings_.next(slot.ring + ".host", 3, Tier::host, slot.tag, slot.bytes);
      read(extent_of(slot), passing, 0, kNone, slot.b, slot.mb);
      copy(passing, to, kNone, slot.b, slot.mb);
    }
    return to;
  }
  BufferId host_home(const SavedSlot& slot) {
    return layout_.passing(slot.name + ".host", Tier::host, slot.tag, slot.bytes);
  }
  BufferId extent_of(const SavedSlot& slot) {
    return layout_.passing(slot.name + ".disk", Tier::disk, slot.tag, slot.bytes);
  }

  // The boundary that block b reads in forward.
  BufferId live_boundary(int b, int mb) {
    if (training() && needs_backward(b) && effective(block_plan(b).input) == SlotFate::keep)
      return place(boundary_before(b, mb));
    return layout_.passing(numbered("boundary.live", b % 2, mb), device_tier(), Tag::boundaries,
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
    return workspace_ = layout_.passing("workspace", device_tier(), Tag::workspace, most.count);
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
      const std::vector<Operand> parameters = parameters_of(b);
      for (int mb : micro_batches(b)) forward(b, mb, parameters);
    }
    if (training()) return;
    const std::vector<Operand> parameters = parameters_of(blocks() - 1);
    for (int mb : micro_batches(blocks() - 1)) loss(mb, parameters, OpKind::loss_only);
  }
  std::vector<Operand> parameters_of(int b) {
    std::vector<Operand> operands;
    for (size_t i = 0; i < block(b).groups.size(); ++i)
      operands.push_back(
          whole(Role::parameters, Access::read, device_weights(block(b).groups[i]), static_cast<int>(i)));
    return operands;
  }

  void forward(int b, int mb, const std::vector<Operand>& parameters) {
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
    return layout_.passing(numbered("gradient.live", mb), device_tier(), Tag::boundaries, shape_.boundary_bytes.count);
  }

  void backward_all() {
    const int head = blocks() - 1;
    begin_gradients(head);
    const std::vector<Operand> parameters = parameters_of(head);
    for (int mb : micro_batches(head)) loss(mb, parameters, OpKind::loss);
    finish_gradients(head);
    for (int b = head - 1; b >= first_trained_block_; --b) {
      begin_gradients(b);
      // The embedding's backward scatters rows: it reads no weights.
      const std::vector<Operand> weights = b == 0 ? std::vector<Operand>{} : parameters_of(b);
      for (int mb : micro_batches(b)) backward(b, mb, weights);
      // One block late: all that this block's backward takes is fetched before states that wait for a gradient, and
      // the update does not queue behind this block's norm.
      update_finished();
      finish_gradients(b);
    }
    update_finished();
  }
  void update_finished() {
    for (const auto& [g, gradients] : finished_) update_behind(g);
    finished_.clear();
  }

  void loss(int mb, const std::vector<Operand>& parameters, OpKind kind) {
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

  void backward(int b, int mb, const std::vector<Operand>& parameters) {
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

  // --- gradients -----------------------------------------------------------------------------------------------

  // Where a block's backward adds up the gradient of a group: its home when that is memory the device sees, else
  // a buffer of its own when several blocks add to it, else one of a ring.
  void begin_gradients(int b) {
    for (int g : block(b).groups) {
      if (!group(g).trainable || accumulating_.contains(g)) continue;
      if (!separate() && gradient_at_home(g)) {
        accumulating_[g] = home_gradients(g);
      } else if (uses_[g] > 1) {
        accumulating_[g] =
            layout_.passing(numbered("gradients.shared", g), device_tier(), Tag::gradients, gradient_bytes(g));
      } else {
        accumulating_[g] =
            rings_.next(numbered("gradients.ring", group(g).elements), gradient_ring_depth(g, gradient_ring_blocks()),
                        device_tier(), Tag::gradients, gradient_bytes(g));
      }
    }
  }
  void add_gradients(int b, Op& op) {
    op.accumulate.assign(block(b).groups.size(), 0);
    for (size_t i = 0; i < block(b).groups.size(); ++i) {
      const int g = block(b).groups[i];
      if (!group(g).trainable) continue;
      const bool first = begun_.insert(g).second;
      op.accumulate[i] = first ? 0 : 1;
      op.operands.push_back(
          whole(Role::gradients, first ? Access::write : Access::read_write, accumulating_.at(g), static_cast<int>(i)));
    }
  }
  void finish_gradients(int b) {
    for (int g : block(b).groups) {
      if (!group(g).trainable || block_of_first_use_[index(g)] != b) continue;
      const BufferId gradients = separate() ? gradients_on_host(g, b) : accumulating_.at(g);
      Op norm{.kind = OpKind::norm, .lane = Lane::optim, .block = b, .group = g, .bytes = gradient_bytes(g)};
      norm.operands = {whole(Role::gradients, Access::read, gradients)};
      emit(std::move(norm));
      if (!gradient_at_home(g) && !gradient_is_passing(g))
        for (const Chunk& chunk : chunks(g))
          write(gradients, chunk.begin * shape_.gradient_bytes_per_element, gradients_extent(g, chunk), g, b, kNone);
      if (phase_.early && is_early(g)) finished_[g] = gradients;
    }
  }
  BufferId gradients_on_host(int g, int b) {
    const BufferId host = gradient_at_home(g)
                              ? home_gradients(g)
                              : rings_.next(numbered("gradients.host.ring", group(g).elements),
                                            gradient_ring_depth(g, 2), Tier::host, Tag::gradients, gradient_bytes(g));
    copy(accumulating_.at(g), host, g, b, kNone);
    return host;
  }

  const JobShape& shape_;
  const Plan& plan_;
  const Phase phase_;
  const std::span<const uint8_t> low_bits_;
  std::vector<int> block_of_first_use_;  // per group: the last block whose backward adds to it
  std::map<int, int> uses_;              // blocks that use the group
  std::map<int64_t, int> groups_of_size_, used_together_;
  int64_t staging_bytes_ = 0, states_chunk_bytes_ = 0;  // the most of all groups
  int first_trained_block_ = 0;
  BufferId workspace_ = kNone;
  std::set<int> updated_, written_, begun_;
  std::map<int, BufferId> accumulating_;
  std::map<int, BufferId> finished_;  // gradients that wait for their update behind backward
};

}  // namespace

Schedule build_schedule(const JobShape& shape, const Plan& plan, const Phase& phase,
                        std::span<const uint8_t> source_low_bits, Layout& layout) {
  SLUICE_CHECK(plan.groups.size() == shape.groups.size() && plan.blocks.size() == shape.blocks.size(),
               "the plan is for another model");
  SLUICE_CHECK(source_low_bits.size() == shape.groups.size(), "one entry per group");
  SLUICE_CHECK(plan.chunk_elements % 4096 == 0, "chunks must keep O_DIRECT alignment");
  return Builder(shape, plan, phase, source_low_bits, layout).build();
}

}  // namespace sluice::plan
