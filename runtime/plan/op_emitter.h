// Appends ops to a schedule. An op waits for what it must by its operands alone: for the last writer of what it reads,
// and for the readers and the writer of what it writes.
#pragma once

#include <vector>

#include "runtime/plan/layout.h"
#include "runtime/plan/ring.h"
#include "runtime/plan/schedule.h"

namespace sluice::plan {

class OpEmitter {
 protected:
  OpEmitter(std::string name, Layout& layout) : layout_(layout), rings_(layout) {
    constexpr size_t kOfAJob = 2048;
    schedule_.name = std::move(name);
    schedule_.ops.reserve(kOfAJob);
  }
  ~OpEmitter() = default;

  Operand whole(Role role, Access access, BufferId buffer, int i = 0) const {
    return {role, access, i, buffer, 0, layout_.at(buffer).wanted_bytes};
  }
  static Operand part(Role role, Access access, BufferId buffer, int64_t offset, int64_t bytes, int i = 0) {
    return {role, access, i, buffer, offset, bytes};
  }

  OpId emit(Op&& op);
  void move(OpKind kind, Lane lane, Operand from, Operand to, int g, int b, int mb);
  // Of whole buffers, between host and device.
  void copy(BufferId from, BufferId to, int g, int b, int mb);
  // Of a whole extent.
  void read(BufferId extent, BufferId to, int64_t offset, int g, int b, int mb);
  void write(BufferId from, int64_t offset, BufferId extent, int g, int b, int mb);

  Layout& layout_;
  RingSet rings_;
  Schedule schedule_;

 private:
  struct Hazard {
    OpId writer = kNone;
    std::vector<OpId> readers;
  };
  Hazard& hazard_of(BufferId buffer);

  std::vector<Hazard> hazards_;  // per buffer
  std::vector<OpId> waits_for_;  // of the op that is emitted, kept for its memory
};

}  // namespace sluice::plan
