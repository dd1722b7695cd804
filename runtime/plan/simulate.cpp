#include "runtime/plan/simulate.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace sluice::plan {
namespace {

constexpr size_t index(Lane lane) { return static_cast<size_t>(lane); }

BytesPerSecond rate_of(Lane lane, const MachineProfile& profile) {
  switch (lane) {
    case Lane::h2d:
      return profile.h2d;
    case Lane::d2h:
      return profile.d2h;
    case Lane::read:
      return profile.disk_read;
    case Lane::write:
      return profile.disk_write;
    case Lane::optim:
      return profile.optimizer;
    case Lane::compute:
      break;
  }
  return {};
}

Microseconds alone(Lane lane, Microseconds compute, Bytes bytes, const MachineProfile& profile) {
  if (lane == Lane::compute) return compute;
  const BytesPerSecond rate = rate_of(lane, profile);
  return rate.count > 0 ? bytes / rate : Microseconds{};
}

// All lanes at once: from one end of an op to the next, every busy lane works at a constant rate.
class Clockwork {
 public:
  Clockwork(const Schedule& schedule, const MachineProfile& profile)
      : schedule_(schedule), profile_(profile), waiting_(schedule.ops.size()), first_(schedule.ops.size() + 1) {
    for (size_t id = 0; id < schedule.ops.size(); ++id) {
      const Op& op = schedule.ops[id];
      lanes_[index(op.lane)].order.push_back(id);
      waiting_[id] = op.after.size();
      for (OpId before : op.after) ++first_[static_cast<size_t>(before) + 1];
    }
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    dependents_.resize(first_.back());
    std::vector<size_t> filled(first_.begin(), first_.end() - 1);
    for (size_t id = 0; id < schedule.ops.size(); ++id)
      for (OpId before : schedule.ops[id].after) dependents_[filled[static_cast<size_t>(before)]++] = id;
  }

  std::vector<Slice> run() {
    std::vector<Slice> slices(schedule_.ops.size());
    for (start(slices); busy(); start(slices)) advance(slices);
    return slices;
  }

 private:
  static constexpr size_t kIdle = std::numeric_limits<size_t>::max();
  struct LaneState {
    std::vector<size_t> order;
    size_t next = 0;
    size_t op = kIdle;
    double left = 0;  // microseconds of work alone
    double rate = 1;
  };

  bool busy() const {
    return std::any_of(lanes_.begin(), lanes_.end(), [](const LaneState& lane) { return lane.op != kIdle; });
  }

  void start(std::vector<Slice>& slices) {
    for (LaneState& lane : lanes_) {
      if (lane.op != kIdle || lane.next == lane.order.size() || waiting_[lane.order[lane.next]] > 0) continue;
      lane.op = lane.order[lane.next++];
      const Op& op = schedule_.ops[lane.op];
      lane.left = alone(op.lane, op.time, Bytes{op.bytes}, profile_).count;
      slices[lane.op].begin = {now_};
    }
    for (size_t a = 0; a < kLaneCount; ++a) {
      lanes_[a].rate = 1;
      for (size_t b = 0; b < kLaneCount; ++b)
        if (b != a && lanes_[b].op != kIdle) lanes_[a].rate *= profile_.beside[a][b];
    }
  }

  void advance(std::vector<Slice>& slices) {
    double step = std::numeric_limits<double>::infinity();
    for (const LaneState& lane : lanes_)
      if (lane.op != kIdle) step = std::min(step, lane.left / lane.rate);
    now_ += step;
    for (LaneState& lane : lanes_) {
      if (lane.op == kIdle) continue;
      const bool ends = lane.left / lane.rate <= step;
      lane.left -= step * lane.rate;
      if (!ends) continue;
      slices[lane.op].end = {now_};
      for (size_t i = first_[lane.op]; i < first_[lane.op + 1]; ++i) --waiting_[dependents_[i]];
      lane.op = kIdle;
    }
  }

  const Schedule& schedule_;
  const MachineProfile& profile_;
  std::vector<size_t> waiting_;
  std::vector<size_t> first_, dependents_;  // of op id: dependents_[first_[id]] to before first_[id + 1]
  std::array<LaneState, kLaneCount> lanes_;
  double now_ = 0;
};

}  // namespace

Microseconds time_alone(Lane lane, const LaneWork& work, const MachineProfile& profile) {
  return alone(lane, work.time, Bytes{work.bytes}, profile);
}

std::array<LaneWork, kLaneCount> work_of(const Schedule& schedule) {
  std::array<LaneWork, kLaneCount> work{};
  for (const Op& op : schedule.ops) {
    LaneWork& lane = work[index(op.lane)];
    lane.flops += op.flops;
    lane.time += op.time;
    lane.bytes += op.bytes;
  }
  return work;
}

Bound bound_of(const std::array<LaneWork, kLaneCount>& work, const MachineProfile& profile) {
  std::array<double, kLaneCount> own{};
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    own[lane] = time_alone(static_cast<Lane>(lane), work[lane], profile).count;
  Bound bound;
  for (size_t a = 0; a < kLaneCount; ++a) {
    double time = own[a];
    for (size_t b = 0; b < kLaneCount && own[a] > 0; ++b)
      if (b != a) time += own[b] * std::min(1.0, (1 - profile.beside[a][b]) / profile.beside[b][a]);
    bound.by_lane[a] = {time};
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
  result.ops = Clockwork(schedule, profile).run();
  for (const Slice& slice : result.ops) result.time = std::max(result.time, slice.end);
  for (const Op& op : schedule.ops)
    for (const Operand& operand : op.operands) {
      const Buffer& buffer = buffers[static_cast<size_t>(operand.buffer)];
      auto& peak = result.peak[static_cast<size_t>(buffer.tier)];
      peak = std::max(peak, Bytes{buffer.offset + buffer.bytes});
    }
  return result;
}

}  // namespace sluice::plan
