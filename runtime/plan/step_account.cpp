#include "runtime/plan/step_account.h"

#include <algorithm>
#include <numeric>

#include "runtime/core/check.h"

namespace sluice::plan {
namespace {

constexpr size_t index(Lane lane) { return static_cast<size_t>(lane); }

class Accountant {
 public:
  Accountant(const Schedule& schedule, const std::vector<Slice>& slices, const JobShape& shape)
      : schedule_(schedule), slices_(slices), blocks_(shape.blocks.size()) {
    SLUICE_CHECK(schedule.ops.size() == slices.size(), "the slices are of another schedule");
    block_of_group_.assign(shape.groups.size(), blocks_);
    for (size_t b = blocks_; b-- > 0;)
      for (const int group : shape.blocks[b].groups) block_of_group_[static_cast<size_t>(group)] = b;
    std::array<OpId, kLaneCount> last;
    last.fill(kNone);
    for (size_t id = 0; id < slices.size(); ++id) {
      OpId& before = last[index(schedule.ops[id].lane)];
      before_in_lane_.push_back(before);
      before = static_cast<OpId>(id);
    }
  }

  StepAccount account() {
    account_.blocks.resize(blocks_ + 1);
    for (const Slice& slice : slices_) account_.time = std::max(account_.time, slice.end);
    for (size_t lane = 0; lane < kLaneCount; ++lane) walk_lane(static_cast<Lane>(lane));
    for (const auto& block : account_.blocks)
      for (size_t lane = 0; lane < kLaneCount; ++lane) account_.lanes[lane] += block[lane];
    return std::move(account_);
  }

 private:
  const Slice& slice(OpId id) const { return slices_[static_cast<size_t>(id)]; }
  const Op& op(OpId id) const { return schedule_.ops[static_cast<size_t>(id)]; }

  size_t block_of(const Op& op) const {
    if (op.block != kNone) return static_cast<size_t>(op.block);
    return op.group == kNone ? blocks_ : block_of_group_[static_cast<size_t>(op.group)];
  }

  void walk_lane(Lane lane) {
    std::vector<OpId> ops;
    for (size_t id = 0; id < slices_.size(); ++id)
      if (schedule_.ops[id].lane == lane) ops.push_back(static_cast<OpId>(id));
    std::stable_sort(ops.begin(), ops.end(), [&](OpId a, OpId b) { return slice(a).begin < slice(b).begin; });
    double covered = 0;  // until then the lane's time has been given away
    for (const OpId id : ops) {
      LaneTime& time = account_.blocks[block_of(op(id))][index(lane)];
      if (slice(id).begin.count > covered) {
        find_causes(id, covered, time);
        covered = slice(id).begin.count;
      }
      time.busy.count += std::max(0.0, slice(id).end.count - covered);
      covered = std::max(covered, slice(id).end.count);
      time.bytes += op(id).bytes;
      time.flops += op(id).flops;
    }
    account_.done[index(lane)] = {account_.time.count - covered};
  }

  // What let an op begin: the last of what it had to wait for.
  struct Release {
    double at = 0;
    OpId by = kNone;
    bool ran = false;  // `by` ran until then; else it began then, and ops of a lane begin in order
  };
  Release release_of(OpId id) const {
    Release last;
    const auto consider = [&](double at, OpId by, bool ran) {
      if (at >= last.at) last = {at, by, ran};
    };
    for (const OpId before : op(id).after) consider(slice(before).end.count, before, true);
    if (const OpId before = before_in_lane_[static_cast<size_t>(id)]; before != kNone) {
      const bool ended = slice(before).end <= slice(id).begin;
      consider(ended ? slice(before).end.count : slice(before).begin.count, before, ended);
    }
    return last;
  }

  // Walks back from the op's begin to `from` along the chain of what was waited for.
  void find_causes(OpId id, double from, LaneTime& time) {
    double until = slice(id).begin.count;
    while (until > from) {
      const Release release = release_of(id);
      const double at = std::clamp(release.at, from, until);  // clocks of two threads may differ by a little
      time.handover.count += until - at;
      until = at;
      if (release.by == kNone) {
        time.handover.count += until - from;
        return;
      }
      if (release.ran) {
        const double begin = std::clamp(slice(release.by).begin.count, from, until);
        time.stalled_on[index(op(release.by).lane)].count += until - begin;
        until = begin;
      }
      id = release.by;
    }
  }

  const Schedule& schedule_;
  const std::vector<Slice>& slices_;
  const size_t blocks_;
  std::vector<size_t> block_of_group_;
  std::vector<OpId> before_in_lane_;
  StepAccount account_;
};

}  // namespace

Microseconds LaneTime::stalled() const { return std::accumulate(stalled_on.begin(), stalled_on.end(), handover); }

bool LaneTime::did_something() const { return busy.count > 0 || bytes > 0 || flops > 0 || stalled().count > 0; }

LaneTime& LaneTime::operator+=(const LaneTime& other) {
  busy += other.busy;
  for (size_t lane = 0; lane < kLaneCount; ++lane) stalled_on[lane] += other.stalled_on[lane];
  handover += other.handover;
  bytes += other.bytes;
  flops += other.flops;
  return *this;
}

LaneTime& LaneTime::operator/=(int64_t times) {
  const auto count = static_cast<double>(times);
  busy.count /= count;
  for (Microseconds& each : stalled_on) each.count /= count;
  handover.count /= count;
  bytes /= times;
  flops /= count;
  return *this;
}

StepAccount& StepAccount::operator+=(const StepAccount& other) {
  time += other.time;
  blocks.resize(std::max(blocks.size(), other.blocks.size()));
  for (size_t lane = 0; lane < kLaneCount; ++lane) {
    lanes[lane] += other.lanes[lane];
    done[lane] += other.done[lane];
    for (size_t block = 0; block < other.blocks.size(); ++block) blocks[block][lane] += other.blocks[block][lane];
  }
  return *this;
}

StepAccount& StepAccount::operator/=(int64_t times) {
  time.count /= static_cast<double>(times);
  for (size_t lane = 0; lane < kLaneCount; ++lane) {
    lanes[lane] /= times;
    done[lane].count /= static_cast<double>(times);
    for (auto& block : blocks) block[lane] /= times;
  }
  return *this;
}

StepAccount account_of(const Schedule& schedule, const std::vector<Slice>& ops, const JobShape& shape) {
  return Accountant(schedule, ops, shape).account();
}

}  // namespace sluice::plan
