#include "runtime/plan/verify.h"

#include <algorithm>

#include "runtime/plan/op_order.h"
#include "runtime/plan/range_map.h"

namespace sluice::plan {
namespace {

constexpr int64_t kBlockBytes = 4096;  // of a drive: what transfers move whole
constexpr int64_t kComputeBytes = 64;  // alignment that kernels want
constexpr OpId kBeforeThePhase = -2;   // wrote what lasts

Error problem(const Schedule& schedule, OpId op, const std::string& what) {
  return {ErrorCode::capacity,
          "schedule '" + schedule.name + "', op " + std::to_string(op) + " (" +
              describe(schedule.ops[static_cast<size_t>(op)]) + "): " + what,
          "this is a bug in the schedule builder: please report it with --dry-run's output"};
}

// The executor runs an op where its kind says; what is done to a group beside its passes, where the group is.
Lane lane_of(OpKind kind, bool on_device) {
  switch (kind) {
    case OpKind::read_source:
    case OpKind::read:
      return Lane::read;
    case OpKind::write:
      return Lane::write;
    case OpKind::copy_to_device:
      return Lane::h2d;
    case OpKind::copy_to_host:
      return Lane::d2h;
    case OpKind::unpack:
    case OpKind::init_states:
      return Lane::optim;
    case OpKind::norm:
    case OpKind::update:
    case OpKind::duplicate:
      return on_device ? Lane::compute : Lane::optim;
    case OpKind::forward:
    case OpKind::backward:
    case OpKind::loss:
    case OpKind::loss_only:
      break;
  }
  return Lane::compute;
}

// --- places ------------------------------------------------------------------------------------------------------

// Transfers move whole blocks of the drive.
int64_t touched_bytes(const Op& op, const Operand& operand) {
  return is_transfer(op.lane) ? round_up(operand.bytes, kBlockBytes) : operand.bytes;
}

Result<void> check_operand(const Schedule& schedule, OpId id, const Operand& operand,
                           const std::vector<Buffer>& buffers, const std::array<Bytes, kTierCount>& capacity) {
  const Op& op = schedule.ops[static_cast<size_t>(id)];
  if (operand.buffer < 0 || operand.buffer >= static_cast<int>(buffers.size()))
    return problem(schedule, id, "names a buffer that does not exist");
  const Buffer& buffer = buffers[static_cast<size_t>(operand.buffer)];
  const int64_t touched = touched_bytes(op, operand);
  if (operand.offset < 0 || operand.bytes <= 0 || operand.offset > buffer.bytes - touched)
    return problem(schedule, id, "reaches past the end of " + buffer.name.text());
  if (buffer.offset < 0 || buffer.offset > capacity[static_cast<size_t>(buffer.tier)].count - buffer.bytes)
    return problem(schedule, id, buffer.name.text() + " does not fit tier " + std::string(name_of(buffer.tier)));
  if (buffer.offset % kBlockBytes != 0) return problem(schedule, id, buffer.name.text() + " does not begin at a block");
  if (operand.offset % (is_transfer(op.lane) ? kBlockBytes : kComputeBytes) != 0)
    return problem(schedule, id, "its place in " + buffer.name.text() + " is not aligned");
  if (buffer.tier == Tier::disk && (operand.offset != 0 || operand.bytes != buffer.wanted_bytes))
    return problem(schedule, id, "moves a part of " + buffer.name.text() + ": extents are moved whole");
  return {};
}

// Of the memory that the lane's ops compute in, where the device has its own.
Tier tier_of(Lane lane) { return lane == Lane::compute ? Tier::device : Tier::host; }

// What is done to a group has all its operands in one memory.
Result<void> check_together(const Schedule& schedule, OpId id, const std::vector<Buffer>& buffers) {
  const Op& op = schedule.ops[static_cast<size_t>(id)];
  for (const Operand& operand : op.operands)
    if (buffers[static_cast<size_t>(operand.buffer)].tier != tier_of(op.lane))
      return problem(schedule, id,
                     "takes " + buffers[static_cast<size_t>(operand.buffer)].name.text() + " from another memory");
  return {};
}

// What moves bytes as they are has one operand on each of two tiers, of the same length.
Result<void> check_move(const Schedule& schedule, OpId id, const std::vector<Buffer>& buffers) {
  const Op& op = schedule.ops[static_cast<size_t>(id)];
  struct Ends {
    Tier from, to;
  };
  const Ends ends = op.kind == OpKind::read             ? Ends{Tier::disk, Tier::host}
                    : op.kind == OpKind::write          ? Ends{Tier::host, Tier::disk}
                    : op.kind == OpKind::copy_to_device ? Ends{Tier::host, Tier::device}
                    : op.kind == OpKind::duplicate      ? Ends{tier_of(op.lane), tier_of(op.lane)}
                                                        : Ends{Tier::device, Tier::host};
  if (op.operands.size() != 2 || op.operands[0].role != Role::source || op.operands[1].role != Role::destination ||
      op.operands[0].access != Access::read || op.operands[1].access != Access::write)
    return problem(schedule, id, "must have a source and a destination");
  if (op.operands[0].bytes != op.operands[1].bytes)
    return problem(schedule, id, "its source and its destination differ in length");
  if (buffers[static_cast<size_t>(op.operands[0].buffer)].tier != ends.from ||
      buffers[static_cast<size_t>(op.operands[1].buffer)].tier != ends.to)
    return problem(schedule, id, "does not move between the tiers of its kind");
  return {};
}

Result<void> check_places(const Schedule& schedule, const std::vector<Buffer>& buffers,
                          const std::array<Bytes, kTierCount>& capacity) {
  for (OpId id = 0; id < static_cast<OpId>(schedule.ops.size()); ++id) {
    const Op& op = schedule.ops[static_cast<size_t>(id)];
    for (OpId before : op.after)
      if (before < 0 || before >= id) return problem(schedule, id, "waits for an op that is not before it");
    for (const Operand& operand : op.operands)
      if (Result<void> place = check_operand(schedule, id, operand, buffers, capacity); !place.ok()) return place;
    const bool on_device =
        !op.operands.empty() && buffers[static_cast<size_t>(op.operands[0].buffer)].tier == Tier::device;
    if (op.lane != lane_of(op.kind, on_device))
      return problem(schedule, id, "is on lane " + std::string(name_of(op.lane)) + ", where its kind does not run");
    if (op.kind == OpKind::norm || op.kind == OpKind::update)
      if (Result<void> together = check_together(schedule, id, buffers); !together.ok()) return together;
    const bool moves = op.kind == OpKind::read || op.kind == OpKind::write || op.kind == OpKind::copy_to_device ||
                       op.kind == OpKind::copy_to_host || op.kind == OpKind::duplicate;
    if (!moves) continue;
    if (Result<void> move = check_move(schedule, id, buffers); !move.ok()) return move;
  }
  return {};
}

// --- races -------------------------------------------------------------------------------------------------------

struct Uses {
  OpId writer = kNone;
  std::vector<OpId> readers;  // since
};

class Races {
 public:
  Races(const Schedule& schedule, const std::vector<Buffer>& buffers)
      : schedule_(schedule), buffers_(buffers), order_(schedule) {
    for (const Buffer& buffer : buffers)
      if (buffer.persistent)
        uses(buffer.tier).assign(buffer.offset, buffer.offset + buffer.bytes, {kBeforeThePhase, {}});
  }

  Result<void> check() {
    for (OpId id = 0; id < static_cast<OpId>(schedule_.ops.size()) && result_.ok(); ++id) {
      const Op& op = schedule_.ops[static_cast<size_t>(id)];
      order_.begin(id);
      for (const Operand& operand : op.operands) check_operand(id, op, operand);
      for (const Operand& operand : op.operands) record(id, op, operand);
    }
    return std::move(result_);
  }

 private:
  RangeMap<Uses>& uses(Tier tier) { return uses_[static_cast<size_t>(tier)]; }
  const Buffer& buffer(const Operand& operand) const { return buffers_[static_cast<size_t>(operand.buffer)]; }
  template <class Visit>
  void each(const Op& op, const Operand& operand, const Visit& visit) {
    const int64_t begin = buffer(operand).offset + operand.offset;
    uses(buffer(operand).tier).each(begin, begin + touched_bytes(op, operand), visit);
  }

  void check_operand(OpId id, const Op& op, const Operand& operand) {
    const bool scratch = operand.role == Role::workspace;
    // Moved whole, the padding at the end of a buffer is nobody's.
    const int64_t wanted_end = buffer(operand).offset + operand.offset + operand.bytes;
    each(op, operand, [&](int64_t begin, int64_t, const Uses& use) {
      if (operand.access != Access::write && use.writer == kNone && !scratch && begin < wanted_end)
        fail(id, "reads " + buffer(operand).name.text() + ", which nothing has written");
      if (!ended(id, use.writer))
        fail(id, "may run while op " + std::to_string(use.writer) + " writes " + buffer(operand).name.text());
      // One transfer of an extent at a time.
      if (operand.access == Access::read && buffer(operand).tier != Tier::disk) return;
      for (OpId reader : use.readers)
        if (!ended(id, reader))
          fail(id, "may touch " + buffer(operand).name.text() + " while op " + std::to_string(reader) + " reads it");
    });
  }
  bool ended(OpId id, OpId other) const { return other < 0 || other == id || order_.ended(other); }

  void record(OpId id, const Op& op, const Operand& operand) {
    const int64_t begin = buffer(operand).offset + operand.offset;
    if (operand.access != Access::read) {
      uses(buffer(operand).tier).assign(begin, begin + touched_bytes(op, operand), {id, {}});
      return;
    }
    each(op, operand, [&](int64_t, int64_t, Uses& use) {
      if (use.writer == id) return;
      // The last reader of a lane that ends in order stands for those before it.
      if (!is_transfer(op.lane))
        std::erase_if(use.readers,
                      [&](OpId reader) { return schedule_.ops[static_cast<size_t>(reader)].lane == op.lane; });
      use.readers.push_back(id);
    });
  }

  void fail(OpId id, const std::string& what) {
    if (result_.ok()) result_ = problem(schedule_, id, what);
  }

  const Schedule& schedule_;
  const std::vector<Buffer>& buffers_;
  OpOrder order_;
  std::array<RangeMap<Uses>, kTierCount> uses_;
  Result<void> result_;
};

}  // namespace

Result<void> verify(const Schedule& schedule, const std::vector<Buffer>& buffers,
                    const std::array<Bytes, kTierCount>& capacity) {
  if (Result<void> places = check_places(schedule, buffers, capacity); !places.ok()) return places;
  return Races(schedule, buffers).check();
}

}  // namespace sluice::plan
