#include "runtime/plan/verify.h"

#include <algorithm>
#include <numeric>
#include <optional>

namespace sluice::plan {
namespace {

Error problem(const Schedule& schedule, OpId op, const std::string& what) {
  return {ErrorCode::capacity,
          "schedule '" + schedule.name + "', op " + std::to_string(op) + " (" +
              describe(schedule.ops[static_cast<size_t>(op)]) + "): " + what,
          "this is a bug in the schedule builder: please report it with --dry-run's output"};
}

// Ops of these lanes end in the order in which they start.
bool serial(Lane lane) { return lane != Lane::read && lane != Lane::write; }

// ancestors.test(a, b): b is known to have ended before a starts.
class Ancestors {
 public:
  explicit Ancestors(const Schedule& schedule)
      : words_((schedule.ops.size() + 63) / 64), bits_(words_ * schedule.ops.size(), 0) {
    std::array<OpId, kLaneCount> last;
    last.fill(kNone);
    for (size_t id = 0; id < schedule.ops.size(); ++id) {
      const Op& op = schedule.ops[id];
      for (OpId before : op.after) inherit(id, static_cast<size_t>(before));
      OpId& previous = last[static_cast<size_t>(op.lane)];
      if (serial(op.lane) && previous != kNone) inherit(id, static_cast<size_t>(previous));
      previous = static_cast<OpId>(id);
    }
  }
  bool test(OpId later, OpId earlier) const {
    const auto a = static_cast<size_t>(later), b = static_cast<size_t>(earlier);
    return (bits_[a * words_ + b / 64] >> (b % 64) & 1) != 0;
  }

 private:
  void inherit(size_t id, size_t before) {
    for (size_t word = 0; word < words_; ++word) bits_[id * words_ + word] |= bits_[before * words_ + word];
    bits_[id * words_ + before / 64] |= uint64_t{1} << (before % 64);
  }

  size_t words_;
  std::vector<uint64_t> bits_;
};

// Buffers that share bytes stand for one another.
std::vector<int> alias_classes(const std::vector<Buffer>& buffers) {
  std::vector<int> order(buffers.size()), alias(buffers.size());
  std::iota(order.begin(), order.end(), 0);
  std::iota(alias.begin(), alias.end(), 0);
  const auto at = [&](int i) -> const Buffer& { return buffers[static_cast<size_t>(i)]; };
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return std::pair(at(a).tier, at(a).offset) < std::pair(at(b).tier, at(b).offset); });
  int64_t end = -1;
  for (size_t i = 1; i < order.size(); ++i) {
    const Buffer& previous = at(order[i - 1]);
    end = previous.tier == at(order[i]).tier ? std::max(end, previous.offset + previous.bytes) : -1;
    if (at(order[i]).offset < end) alias[static_cast<size_t>(order[i])] = alias[static_cast<size_t>(order[i - 1])];
  }
  return alias;
}

struct Uses {
  OpId writer = kNone;
  std::vector<OpId> readers;
};

Result<void> check_places(const Schedule& schedule, const std::vector<Buffer>& buffers,
                          const std::array<Bytes, kTierCount>& capacity) {
  for (OpId id = 0; id < static_cast<OpId>(schedule.ops.size()); ++id) {
    const Op& op = schedule.ops[static_cast<size_t>(id)];
    for (OpId before : op.after)
      if (before < 0 || before >= id) return problem(schedule, id, "waits for an op that is not before it");
    for (const Operand& operand : op.operands) {
      if (operand.buffer < 0 || operand.buffer >= static_cast<int>(buffers.size()))
        return problem(schedule, id, "names a buffer that does not exist");
      const Buffer& buffer = buffers[static_cast<size_t>(operand.buffer)];
      if (operand.offset < 0 || operand.bytes <= 0 || operand.offset + operand.bytes > buffer.bytes)
        return problem(schedule, id, "reaches past the end of " + buffer.name);
      if (buffer.offset < 0 || buffer.offset + buffer.bytes > capacity[static_cast<size_t>(buffer.tier)].count)
        return problem(schedule, id, buffer.name + " does not fit tier " + std::string(name_of(buffer.tier)));
    }
  }
  return {};
}

}  // namespace

Result<void> verify(const Schedule& schedule, const std::vector<Buffer>& buffers,
                    const std::array<Bytes, kTierCount>& capacity) {
  if (Result<void> places = check_places(schedule, buffers, capacity); !places.ok()) return places;
  const Ancestors ancestors(schedule);
  const std::vector<int> alias = alias_classes(buffers);
  std::vector<Uses> uses(buffers.size());
  for (OpId id = 0; id < static_cast<OpId>(schedule.ops.size()); ++id) {
    const Op& op = schedule.ops[static_cast<size_t>(id)];
    for (const Operand& operand : op.operands) {
      const Buffer& buffer = buffers[static_cast<size_t>(operand.buffer)];
      const Uses& use = uses[static_cast<size_t>(alias[static_cast<size_t>(operand.buffer)])];
      const bool scratch = operand.role == Role::workspace;
      if (operand.access != Access::write && use.writer == kNone && !buffer.persistent && !scratch)
        return problem(schedule, id, "reads " + buffer.name + ", which nothing has written");
      if (use.writer != kNone && use.writer != id && !ancestors.test(id, use.writer))
        return problem(schedule, id, "may run while op " + std::to_string(use.writer) + " writes " + buffer.name);
      if (operand.access == Access::read) continue;
      for (OpId reader : use.readers)
        if (reader != id && !ancestors.test(id, reader))
          return problem(schedule, id,
                         "may overwrite " + buffer.name + " while op " + std::to_string(reader) + " reads it");
    }
    for (const Operand& operand : op.operands) {
      Uses& use = uses[static_cast<size_t>(alias[static_cast<size_t>(operand.buffer)])];
      if (operand.access == Access::read) {
        use.readers.push_back(id);
      } else {
        use = {id, {}};
      }
    }
  }
  return {};
}

}  // namespace sluice::plan
