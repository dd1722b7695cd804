#include "runtime/plan/live_memory.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace sluice::plan {
namespace {

struct Use {
  Slice when;
  bool fills = false;  // nothing of what the bytes held before is wanted any more
  int64_t begin = 0, end = 0;
};

// What the buffer holds, from its first byte written to its last byte read.
std::vector<Slice> lives_of(std::vector<Use> uses) {
  std::stable_sort(uses.begin(), uses.end(), [](const Use& a, const Use& b) { return a.when.begin < b.when.begin; });
  std::vector<Slice> lives;
  int64_t filled_to = 0;  // a buffer may be filled piece by piece
  for (const Use& use : uses) {
    const bool anew = use.fills && use.begin < filled_to && use.when.begin >= lives.back().end;
    if (lives.empty() || anew) {
      lives.push_back(use.when);
      filled_to = 0;
    }
    lives.back().end = std::max(lives.back().end, use.when.end);
    if (use.fills) filled_to = std::max(filled_to, use.end);
  }
  return lives;
}

}  // namespace

LiveMemory live_memory(const Schedule& schedule, const std::vector<Slice>& ops, const std::vector<Buffer>& buffers,
                       size_t parts) {
  SLUICE_CHECK(parts > 0 && ops.size() == schedule.ops.size(), "the slices are of another schedule");
  LiveMemory live;
  for (auto& tier : live) tier.fill(std::vector<int64_t>(parts));
  std::vector<std::vector<Use>> uses(buffers.size());
  Microseconds time;
  for (size_t id = 0; id < ops.size(); ++id) {
    time = std::max(time, ops[id].end);
    for (const Operand& operand : schedule.ops[id].operands)
      uses[static_cast<size_t>(operand.buffer)].push_back(
          {ops[id], operand.access == Access::write, operand.offset, operand.offset + operand.bytes});
  }
  const double part_us = std::max(time.count, 1e-9) / static_cast<double>(parts);
  const auto part_at = [&](Microseconds at) { return std::min(static_cast<size_t>(at.count / part_us), parts - 1); };
  for (size_t b = 0; b < buffers.size(); ++b) {
    const Buffer& buffer = buffers[b];
    auto& bytes = live[static_cast<size_t>(buffer.tier)][static_cast<size_t>(buffer.tag)];
    std::vector<Slice> lives = lives_of(std::move(uses[b]));
    if (buffer.persistent) lives = {{{0}, time}};
    size_t next = 0;  // the first part that the buffer has not been counted in
    for (const Slice& life : lives)
      for (next = std::max(next, part_at(life.begin)); next <= part_at(life.end); ++next) bytes[next] += buffer.bytes;
  }
  return live;
}

}  // namespace sluice::plan
