#include "runtime/plan/seen_rates.h"

#include <algorithm>
#include <vector>

namespace sluice::plan {
namespace {

constexpr size_t index(Lane lane) { return static_cast<size_t>(lane); }

// A rate that was not measured stays so: the job's steps are planned to need none of it.
void raise(BytesPerSecond& rate, const LaneWork& work, Microseconds busy) {
  if (rate.count <= 0 || work.bytes == 0 || busy.count <= 0) return;
  rate = std::max(rate, {static_cast<double>(work.bytes) / busy.count * 1e6});
}

}  // namespace

Bound SeenRates::bound_of_step(std::array<LaneWork, kLaneCount> work, const std::array<Microseconds, kLaneCount>& busy,
                               Microseconds took) {
  learn_rates(work, busy);
  work[index(Lane::compute)].time.count *= compute_;
  Bound bound = bound_of(work, profile_);
  // Each pass takes the excess from one lane; the lane that then binds may be another.
  for (size_t pass = 0; pass < kLaneCount && bound.time > took; ++pass) {
    learn_sharing(bound, time_alone(bound.lane, work[index(bound.lane)], profile_), took);
    bound = bound_of(work, profile_);
  }
  bound.time = std::min(bound.time, took);  // two clocks may differ by a rounding
  return bound;
}

void SeenRates::learn_rates(const std::array<LaneWork, kLaneCount>& work,
                            const std::array<Microseconds, kLaneCount>& busy) {
  raise(profile_.disk_read, work[index(Lane::read)], busy[index(Lane::read)]);
  raise(profile_.disk_write, work[index(Lane::write)], busy[index(Lane::write)]);
  raise(profile_.h2d, work[index(Lane::h2d)], busy[index(Lane::h2d)]);
  raise(profile_.d2h, work[index(Lane::d2h)], busy[index(Lane::d2h)]);
  raise(profile_.optimizer, work[index(Lane::optim)], busy[index(Lane::optim)]);
  const Microseconds compute = work[index(Lane::compute)].time, ran = busy[index(Lane::compute)];
  if (compute.count > 0 && ran.count > 0) compute_ = std::min(compute_, ran.count / compute.count);
}

// The lane lost less to the others than was measured: what it loses beside each of them shrinks alike.
void SeenRates::learn_sharing(const Bound& bound, Microseconds alone, Microseconds took) {
  const double kept = std::clamp((took.count - alone.count) / (bound.time.count - alone.count), 0.0, 1.0);
  const size_t a = index(bound.lane);
  for (size_t b = 0; b < kLaneCount; ++b)
    profile_.beside[a][b] = 1 - kept * std::min(1 - profile_.beside[a][b], profile_.beside[b][a]);
}

std::array<Microseconds, kLaneCount> busy_times(const Schedule& schedule, const std::vector<Slice>& ops) {
  std::array<std::vector<Slice>, kLaneCount> by_lane;
  for (size_t op = 0; op < ops.size(); ++op) by_lane[index(schedule.ops[op].lane)].push_back(ops[op]);
  std::array<Microseconds, kLaneCount> busy{};
  for (size_t lane = 0; lane < kLaneCount; ++lane) {
    std::vector<Slice>& slices = by_lane[lane];
    std::sort(slices.begin(), slices.end(), [](const Slice& a, const Slice& b) { return a.begin < b.begin; });
    double end = 0;
    for (const Slice& slice : slices) {
      busy[lane].count += std::max(0.0, slice.end.count - std::max(end, slice.begin.count));
      end = std::max(end, slice.end.count);
    }
  }
  return busy;
}

}  // namespace sluice::plan
