#include "runtime/plan/group_streams.h"

namespace sluice::plan {

GroupStreams::GroupStreams(const JobShape& shape, const Plan& plan, const Phase& phase,
                           std::span<const uint8_t> source_low_bits, Layout& layout)
    : OpEmitter(name_of(phase), layout), shape_(shape), plan_(plan), phase_(phase), low_bits_(source_low_bits) {
  block_of_first_use_.assign(shape.groups.size(), kNone);
  for (int b = 0; b < blocks(); ++b)
    for (int g : block(b).groups) {
      auto& first = block_of_first_use_[index(g)];
      if (first == kNone) first = b;
      uses_[g] += 1;
    }
  weights_rings_ = groups_in_a_row(plan_.prefetch + 1);
  gradient_rings_ = groups_in_a_row(gradient_ring_blocks());
  leaving_rings_ = groups_in_a_row(2);
  for (const GroupShape& each : shape.groups) {
    staging_bytes_ = std::max(staging_bytes_, each.staging_bytes.count);
    states_staging_bytes_ = std::max(states_staging_bytes_, each.states_staging_bytes.count);
  }
  for (const GroupShape& each : shape.groups) {
    chunks_.push_back(cut(each));
    for (const Chunk& chunk : chunks_.back()) states_chunk_bytes_ = std::max(states_chunk_bytes_, chunk.states_bytes);
  }
}

std::vector<GroupStreams::Chunk> GroupStreams::cut(const GroupShape& group) const {
  const int64_t each = chunk_elements(plan_, group);
  std::vector<Chunk> all;
  all.reserve(static_cast<size_t>(group.elements / each + 1));
  int64_t states_begin = 0;
  for (int64_t begin = 0; begin < group.elements; begin += each) {
    const int64_t end = std::min(begin + each, group.elements);
    all.push_back(
        {static_cast<int>(all.size()), begin, end, states_begin, group.trainable ? group.states.bytes(begin, end) : 0});
    states_begin += states_stride(all.back().states_bytes);
  }
  return all;
}

// Per size of weights, the groups of any so many blocks in a row, the most.
GroupStreams::BytesCount GroupStreams::groups_in_a_row(int blocks_in_a_row) const {
  BytesCount most, here;
  std::map<int, int> users;  // of a group, among the blocks in the row
  for (int b = 0; b < blocks(); ++b) {
    for (int g : block(b).groups)
      if (users[g]++ == 0) here[group(g).weight_bytes().count] += 1;
    if (b >= blocks_in_a_row)
      for (int g : block(b - blocks_in_a_row).groups)
        if (--users[g] == 0) here[group(g).weight_bytes().count] -= 1;
    for (int g : block(b).groups) {
      const int64_t bytes = group(g).weight_bytes().count;
      most[bytes] = std::max(most[bytes], here[bytes]);
    }
  }
  return most;
}

// An update behind backward takes the gradients from the ring while the next block's backward writes its own.
int GroupStreams::gradient_ring_blocks() const {
  return !separate() && updates_behind_backward(plan_) ? std::max(2, plan_.gradient_ring) : plan_.gradient_ring;
}

// --- places ------------------------------------------------------------------------------------------------------

BufferId GroupStreams::home_weights(int g, int set) {
  return layout_.lasting(home_weights_name(g, set), Tier::host, Tag::weights, group(g).weight_bytes().count);
}
BufferId GroupStreams::home_device_weights(int g, int set) {
  return layout_.lasting(device_weights_name(g, set), Tier::device, Tag::weights, group(g).weight_bytes().count);
}
BufferId GroupStreams::weights_extent(int g, int set) {
  return layout_.lasting(weights_extent_name(g, set), Tier::disk, Tag::weights, group(g).weight_bytes().count);
}
BufferId GroupStreams::home_states(int g, int set) {
  const Chunk& last = chunks(g).back();
  return layout_.lasting(states_name(group_plan(g), g, set), group_plan(g).states, Tag::states,
                         last.states_begin + states_stride(last.states_bytes));
}
BufferId GroupStreams::states_extent(int g, const Chunk& chunk, int set) {
  return layout_.lasting(states_extent_name(g, chunk.number, set), Tier::disk, Tag::states, chunk.states_bytes);
}
BufferId GroupStreams::home_gradients(int g) {
  const BufferName name(on_device(g) ? "gradients.device" : "gradients.host", g);
  return layout_.lasting(name, group_plan(g).gradients, Tag::gradients, gradient_bytes(g));
}
BufferId GroupStreams::gradients_extent(int g, const Chunk& chunk) {
  return layout_.lasting(BufferName("gradients.disk", g, chunk.number), Tier::disk, Tag::gradients,
                         chunk.elements() * shape_.gradient_bytes_per_element);
}
// What passes through the host on its way to the device, once.
BufferId GroupStreams::load_ring(int g) {
  return rings_.next(load_ring_name(group(g)), 1, Tier::host, Tag::staging, group(g).weight_bytes().count);
}
Operand GroupStreams::home_states_chunk(int g, const Chunk& chunk, int set, Role role, Access access) {
  return part(role, access, home_states(g, set), chunk.states_begin, chunk.states_bytes);
}
Operand GroupStreams::ring_states_chunk(const Chunk& chunk, Role role, Access access) {
  const BufferId buffer =
      rings_.next(BufferName(kStatesRing), plan_.chunk_ring, Tier::host, Tag::states, states_chunk_bytes_);
  return part(role, access, buffer, 0, chunk.states_bytes);
}
Operand GroupStreams::gradients_chunk(int g, const Chunk& chunk) {
  const int64_t each = shape_.gradient_bytes_per_element;
  if (finished_.contains(g))
    return part(Role::gradients, Access::read, finished_.at(g), chunk.begin * each, chunk.elements() * each);
  if (group_plan(g).gradients != Tier::disk)
    return part(Role::gradients, Access::read, home_gradients(g), chunk.begin * each, chunk.elements() * each);
  const BufferId buffer = rings_.next(BufferName(kGradientsChunkRing), plan_.chunk_ring, Tier::host, Tag::gradients,
                                      plan_.chunk_elements * each);
  read(gradients_extent(g, chunk), buffer, 0, g, kNone, kNone);
  return part(Role::gradients, Access::read, buffer, 0, chunk.elements() * each);
}

// --- from the user's files ---------------------------------------------------------------------------------------

BufferId GroupStreams::stage_weights(int g, const Chunk& chunk) {
  const BufferId staging =
      rings_.next(BufferName(kStaging), plan_.chunk_ring, Tier::host, Tag::staging, staging_bytes_);
  Op op{.kind = OpKind::read_source, .lane = Lane::read, .group = g, .begin = chunk.begin, .end = chunk.end};
  op.bytes = chunk.elements() * group(g).weight_bytes_per_element;
  op.operands = {whole(Role::destination, Access::write, staging)};
  emit(std::move(op));
  return staging;
}
BufferId GroupStreams::stage_states(int g, const Chunk& chunk) {
  // Each part an aligned superset.
  const int64_t bytes = std::max(states_staging_bytes_, states_chunk_bytes_ + kStateParts * 2 * 4096);
  const BufferId staging = rings_.next(BufferName(kStatesStaging), 2, Tier::host, Tag::staging, bytes);
  Op op{.kind = OpKind::read_source, .lane = Lane::read, .group = g, .begin = chunk.begin, .end = chunk.end};
  op.bytes = chunk.states_bytes;
  op.operands = {whole(Role::destination, Access::write, staging, /*i=*/1)};
  emit(std::move(op));
  return staging;
}
void GroupStreams::unpack(int g, const Chunk& chunk, BufferId staging, BufferId weights) {
  const int64_t each = group(g).weight_bytes_per_element;
  Op op{.kind = OpKind::unpack, .lane = Lane::optim, .group = g, .begin = chunk.begin, .end = chunk.end};
  op.bytes = chunk.elements() * each;
  op.operands = {whole(Role::source, Access::read, staging),
                 part(Role::destination, Access::write, weights, chunk.begin * each, chunk.elements() * each)};
  emit(std::move(op));
}
void GroupStreams::init_states(int g, const Chunk& chunk, BufferId source, Operand states) {
  Op op{.kind = OpKind::init_states, .lane = Lane::optim, .group = g, .begin = chunk.begin, .end = chunk.end};
  op.bytes = states.bytes;
  op.operands = {states};
  if (source != kNone) op.operands.push_back(whole(Role::source, Access::read, source));
  emit(std::move(op));
}
void GroupStreams::fill_from_source(int g, BufferId weights) {
  for (const Chunk& chunk : chunks(g)) unpack(g, chunk, stage_weights(g, chunk), weights);
}

// --- load --------------------------------------------------------------------------------------------------------

void GroupStreams::load() {
  for (int g = 0; g < groups(); ++g) {
    if (!weights_on_disk(g)) load_weights(g);
    if (group(g).trainable) load_states(g);
  }
}

void GroupStreams::load_weights(int g) {
  const BufferId host = has_host_weights(g) ? home_weights(g, 0) : load_ring(g);
  fill_from_source(g, host);
  if (weights_on_device(g)) copy(host, home_device_weights(g, 0), g, kNone, kNone);
}

// States that live in memory start here; on disk they stay virgin until their first update, unless a checkpoint
// brings them.
void GroupStreams::load_states(int g) {
  const bool restore = phase_.kind == PhaseKind::restore;
  const Tier home = group_plan(g).states;
  if (home == Tier::disk && !restore) return;
  for (const Chunk& chunk : chunks(g)) {
    BufferId source = kNone;
    if (restore) {
      source = stage_states(g, chunk);
    } else if (low_bits_[index(g)] != 0) {
      source = stage_weights(g, chunk);
    }
    const Operand states = home == Tier::host ? home_states_chunk(g, chunk, 0, Role::destination, Access::write)
                                              : ring_states_chunk(chunk, Role::destination, Access::write);
    init_states(g, chunk, source, states);
    if (home == Tier::disk) write(states.buffer, 0, states_extent(g, chunk, 0), g, kNone, kNone);
    if (home == Tier::device)
      move(OpKind::copy_to_device, Lane::h2d, part(Role::source, Access::read, states.buffer, 0, states.bytes),
           home_states_chunk(g, chunk, 0, Role::destination, Access::write), g, kNone, kNone);
  }
}

// --- weights for the device --------------------------------------------------------------------------------------

// A host buffer that holds the weights as they were after the last update.
BufferId GroupStreams::host_weights(int g) {
  if (has_host_weights(g)) return home_weights(g, newest(g));
  const auto [buffer, hit] = rings_.cached(weights_ring_name(group(g)), most_together(weights_rings_, g), Tier::host,
                                           Tag::weights, group(g).weight_bytes().count, g);
  if (hit) return buffer;
  if (group(g).trainable && (weights_stored(g) || written_.contains(g))) {
    read(weights_extent(g, newest(g)), buffer, 0, g, kNone, kNone);
  } else {
    fill_from_source(g, buffer);
  }
  return buffer;
}

BufferId GroupStreams::device_weights(int g) {
  const bool computing = training() || phase_.kind == PhaseKind::evaluate;
  if (computing && is_pending(g) && !updated_.contains(g)) refresh_weights(g);
  if (!separate()) return host_weights(g);
  if (weights_on_device(g)) return home_device_weights(g, newest(g));
  const auto [buffer, hit] =
      rings_.cached(BufferName("weights.device.ring", group(g).weight_bytes().count), most_together(weights_rings_, g),
                    Tier::device, Tag::weights, group(g).weight_bytes().count, g);
  if (!hit) copy(host_weights(g), buffer, g, kNone, kNone);
  return buffer;
}

// --- the update --------------------------------------------------------------------------------------------------

void GroupStreams::update_pending() {
  for (int g = 0; g < groups(); ++g)
    if (is_pending(g)) refresh_weights(g);
}
void GroupStreams::update_behind_all_again() {
  for (int g = 0; g < groups(); ++g)
    if (is_early(g)) update_behind(g);
}

void GroupStreams::emit_beside(Op&& op, int g) {
  if (on_device(g)) {
    op.lane = Lane::compute;
    // A rate that was not measured counts as no time, as everywhere.
    if (shape_.device_memory_rate.count > 0) op.time = Bytes{op.bytes} / shape_.device_memory_rate;
  }
  emit(std::move(op));
}

// Brings the weights to where they are updated, updates them chunk by chunk in place, and sends home what lives
// elsewhere.
void GroupStreams::refresh_weights(int g) {
  update_group(g, on_device(g) ? home_device_weights(g, newest(g)) : host_weights(g), newest(g), /*early=*/false);
  updated_.insert(g);
}

// The same from the newest set into the other one, where there are two.
void GroupStreams::update_behind(int g) {
  BufferId weights = on_device(g) ? home_device_weights(g, newest(g)) : host_weights(g);
  if (!weights_on_disk(g) && next_set(g) != newest(g)) {
    const BufferId other = on_device(g) ? home_device_weights(g, next_set(g)) : home_weights(g, next_set(g));
    duplicate(g, whole(Role::source, Access::read, weights), whole(Role::destination, Access::write, other));
    weights = other;
  }
  update_group(g, weights, next_set(g), /*early=*/true);
}

void GroupStreams::duplicate(int g, Operand from, Operand to) {
  Op op{.kind = OpKind::duplicate, .lane = Lane::optim, .group = g, .bytes = 2 * from.bytes};
  op.operands = {from, to};
  emit_beside(std::move(op), g);
}

void GroupStreams::update_group(int g, BufferId weights, int into, bool early) {
  const bool on_disk = group_plan(g).states == Tier::disk;
  for (const Chunk& chunk : chunks(g)) {
    const Operand states = on_disk ? ring_states_chunk(chunk, Role::states, Access::read_write)
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
  if (weights_on_device(g) && !on_device(g)) copy(weights, home_device_weights(g, into), g, kNone, kNone);
}

void GroupStreams::fetch_states(int g, const Chunk& chunk, const Operand& states) {
  if (states_stored(g) || updated_.contains(g)) {
    read(states_extent(g, chunk, newest(g)), states.buffer, 0, g, kNone, kNone);
    return;
  }
  const BufferId source = low_bits_[index(g)] != 0 ? stage_weights(g, chunk) : kNone;
  init_states(g, chunk, source, part(Role::destination, Access::write, states.buffer, states.offset, states.bytes));
}

void GroupStreams::update_chunk(int g, const Chunk& chunk, BufferId weights, Operand states, bool early) {
  const int64_t each = group(g).weight_bytes_per_element;
  Op op{.kind = OpKind::update, .lane = Lane::optim, .group = g, .begin = chunk.begin, .end = chunk.end};
  op.early = early;
  const Operand gradients = gradients_chunk(g, chunk);
  op.operands = {part(Role::parameters, Access::read_write, weights, chunk.begin * each, chunk.elements() * each),
                 gradients, states};
  op.bytes = 2 * chunk.elements() * each + gradients.bytes + 2 * states.bytes;
  emit_beside(std::move(op), g);
}

// --- gradients ---------------------------------------------------------------------------------------------------

// A gradient is added up in its home when that is memory the device sees, else in a buffer of its own when several
// blocks add to it, else in one of a ring.
void GroupStreams::begin_gradients(int b) {
  for (int g : block(b).groups) {
    if (!group(g).trainable || accumulating_.contains(g)) continue;
    if (gradient_at_home(g) && group_plan(g).gradients == device_tier()) {
      accumulating_[g] = home_gradients(g);
    } else if (uses_[g] > 1) {
      accumulating_[g] =
          layout_.passing(BufferName("gradients.shared", g), device_tier(), Tag::gradients, gradient_bytes(g));
    } else {
      accumulating_[g] = rings_.next(BufferName("gradients.ring", group(g).elements), most_together(gradient_rings_, g),
                                     device_tier(), Tag::gradients, gradient_bytes(g));
    }
  }
}

void GroupStreams::add_gradients(int b, Op& op) {
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

void GroupStreams::finish_gradients(int b) {
  std::vector<int> updated_here;
  for (int g : block(b).groups) {
    if (!group(g).trainable || block_of_first_use_[index(g)] != b) continue;
    const BufferId gradients = separate() && !on_device(g) ? gradients_on_host(g, b) : accumulating_.at(g);
    Op norm{.kind = OpKind::norm, .lane = Lane::optim, .block = b, .group = g, .bytes = gradient_bytes(g)};
    norm.operands = {whole(Role::gradients, Access::read, gradients)};
    emit_beside(std::move(norm), g);
    if (group_plan(g).gradients == Tier::disk && !gradient_is_passing(g))
      for (const Chunk& chunk : chunks(g))
        write(gradients, chunk.begin * shape_.gradient_bytes_per_element, gradients_extent(g, chunk), g, b, kNone);
    if (!phase_.early || !is_early(g)) continue;
    finished_[g] = gradients;
    if (on_device(g)) updated_here.push_back(g);
  }
  for (int g : updated_here) {
    update_behind(g);
    finished_.erase(g);
  }
}

void GroupStreams::update_finished() {
  for (const auto& [g, gradients] : finished_) update_behind(g);
  finished_.clear();
}

BufferId GroupStreams::gradients_on_host(int g, int b) {
  const BufferId host = gradient_at_home(g) ? home_gradients(g)
                                            : rings_.next(BufferName("gradients.host.ring", group(g).elements),
                                                          most_together(leaving_rings_, g), Tier::host, Tag::gradients,
                                                          gradient_bytes(g));
  copy(accumulating_.at(g), host, g, b, kNone);
  return host;
}

}  // namespace sluice::plan
