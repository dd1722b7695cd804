#include "runtime/plan/simulate.h"

#include <algorithm>

namespace sluice::plan {
namespace {

Microseconds duration(const Op& op, const MachineProfile& profile) {
  const Bytes bytes{op.bytes};
  switch (op.lane) {
    case Lane::compute:
      return {op.flops / profile.compute_flops_per_second * 1e6};
    case Lane::h2d:
      return bytes / profile.h2d;
    case Lane::d2h:
      return bytes / profile.d2h;
    case Lane::read:
      return bytes / profile.disk_read;
    case Lane::write:
      return bytes / profile.disk_write;
    case Lane::optim:
      return bytes / profile.optimizer;
  }
  return {};
}

}  // namespace

std::array<LaneWork, kLaneCount> work_of(const Schedule& schedule) {
  std::array<LaneWork, kLaneCount> work{};
  for (const Op& op : schedule.ops) {
    LaneWork& lane = work[static_cast<size_t>(op.lane)];
    lane.flops += op.flops;
    lane.bytes += op.bytes;
  }
  return work;
}

Bound bound_of(const std::array<LaneWork, kLaneCount>& work, const MachineProfile& profile) {
  Bound bound;
  for (size_t lane = 0; lane < kLaneCount; ++lane) {
    Op all{.lane = static_cast<Lane>(lane), .flops = work[lane].flops, .bytes = work[lane].bytes};
    bound.by_lane[lane] = duration(all, profile);
  }
  const int64_t read = work[static_cast<size_t>(Lane::read)].bytes;
  const int64_t written = work[static_cast<size_t>(Lane::write)].bytes;
  if (read > 0 && written > 0) {
    const Microseconds together = Bytes{read + written} / profile.disk_both;
    auto& longer = bound.by_lane[static_cast<size_t>(read >= written ? Lane::read : Lane::write)];
    longer = std::max(longer, together);
  }
  const auto most = std::max_element(bound.by_lane.begin(), bound.by_lane.end());
  bound.time = *most;
  bound.lane = static_cast<Lane>(most - bound.by_lane.begin());
  return bound;
}

Simulation simulate(const Schedule& schedule, const std::vector<Buffer>& buffers, const MachineProfile& profile) {
  Simulation result;
  result.work = work_of(schedule);
  result.bound = bound_of(result.work, profile);
  std::array<Microseconds, kLaneCount> free_at{};
  for (const Op& op : schedule.ops) {
    auto& lane = free_at[static_cast<size_t>(op.lane)];
    Microseconds begin = lane;
    for (OpId dependency : op.after) begin = std::max(begin, result.ops[static_cast<size_t>(dependency)].end);
    lane = begin + duration(op, profile);
    result.ops.push_back({begin, lane});
    result.time = std::max(result.time, lane);
    for (const Operand& operand : op.operands) {
      const Buffer& buffer = buffers[static_cast<size_t>(operand.buffer)];
      auto& peak = result.peak[static_cast<size_t>(buffer.tier)];
      peak = std::max(peak, Bytes{buffer.offset + buffer.bytes});
    }
  }
  return result;
}

}  // namespace sluice::plan
