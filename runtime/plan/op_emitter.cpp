#include "runtime/plan/op_emitter.h"

#include <algorithm>

namespace sluice::plan {

OpId OpEmitter::emit(Op&& op) {
  waits_for_.clear();
  for (const Operand& operand : op.operands) {
    const Hazard& hazard = hazard_of(operand.buffer);
    if (hazard.writer != kNone) waits_for_.push_back(hazard.writer);
    if (operand.access != Access::read)
      waits_for_.insert(waits_for_.end(), hazard.readers.begin(), hazard.readers.end());
  }
  std::sort(waits_for_.begin(), waits_for_.end());
  op.after.assign(waits_for_.begin(), std::unique(waits_for_.begin(), waits_for_.end()));
  const auto id = static_cast<OpId>(schedule_.ops.size());
  for (const Operand& operand : op.operands)
    if (operand.access != Access::read) {
      hazard_of(operand.buffer).writer = id;
      hazard_of(operand.buffer).readers.clear();
    }
  for (const Operand& operand : op.operands) {
    Hazard& hazard = hazard_of(operand.buffer);
    if (hazard.writer != id) hazard.readers.push_back(id);
  }
  for (const Operand& operand : op.operands) rings_.touch(operand.buffer);
  schedule_.ops.push_back(std::move(op));
  return id;
}

OpEmitter::Hazard& OpEmitter::hazard_of(BufferId buffer) {
  const auto at = static_cast<size_t>(buffer);
  if (at >= hazards_.size()) hazards_.resize(layout_.buffers().size());
  return hazards_[at];
}

void OpEmitter::move(OpKind kind, Lane lane, Operand from, Operand to, int g, int b, int mb) {
  Op op{.kind = kind, .lane = lane, .block = b, .group = g, .micro_batch = mb, .bytes = from.bytes};
  op.operands = {from, to};
  emit(std::move(op));
}

void OpEmitter::copy(BufferId from, BufferId to, int g, int b, int mb) {
  const bool to_device = layout_.at(to).tier == Tier::device;
  move(to_device ? OpKind::copy_to_device : OpKind::copy_to_host, to_device ? Lane::h2d : Lane::d2h,
       whole(Role::source, Access::read, from), whole(Role::destination, Access::write, to), g, b, mb);
}

void OpEmitter::read(BufferId extent, BufferId to, int64_t offset, int g, int b, int mb) {
  const int64_t bytes = layout_.at(extent).wanted_bytes;
  move(OpKind::read, Lane::read, whole(Role::source, Access::read, extent),
       part(Role::destination, Access::write, to, offset, bytes), g, b, mb);
}

void OpEmitter::write(BufferId from, int64_t offset, BufferId extent, int g, int b, int mb) {
  const int64_t bytes = layout_.at(extent).wanted_bytes;
  move(OpKind::write, Lane::write, part(Role::source, Access::read, from, offset, bytes),
       whole(Role::destination, Access::write, extent), g, b, mb);
}

}  // namespace sluice::plan
