// What a machine does per second, as measured: the rates that a job's time is simulated with and its bound computed
// from. Compute has no rate here: blocks carry the time that they take (job_shape.h).
#pragma once

#include <array>

#include "runtime/core/tier.h"
#include "runtime/core/units.h"

namespace sluice::plan {

using LaneMatrix = std::array<std::array<double, kLaneCount>, kLaneCount>;

constexpr LaneMatrix lanes_apart() {
  LaneMatrix ones{};
  for (auto& row : ones) row.fill(1);
  return ones;
}

struct MachineProfile {
  BytesPerSecond h2d, d2h;
  BytesPerSecond disk_read, disk_write;
  BytesPerSecond optimizer;  // DRAM bytes that the update reads and writes
  // Rate of the first lane while the second is busy too, over its rate alone; above 0, at most 1. Where compute is the
  // CPU's, the optimizer takes cores from it; reads and writes share a drive.
  LaneMatrix beside = lanes_apart();
};

// What two lanes leave of one another: together they reach `both`, each half of it.
struct LaneRate {
  Lane lane;
  BytesPerSecond alone;
};
inline void share_lanes(MachineProfile& profile, LaneRate a, LaneRate b, BytesPerSecond both) {
  const auto share = [&](LaneRate lane, Lane beside) {
    const double left = both.count / 2 / lane.alone.count;
    profile.beside[static_cast<size_t>(lane.lane)][static_cast<size_t>(beside)] = left < 1 ? left : 1;
  };
  share(a, b.lane);
  share(b, a.lane);
}
inline void share_drive(MachineProfile& profile, BytesPerSecond both) {
  share_lanes(profile, {Lane::read, profile.disk_read}, {Lane::write, profile.disk_write}, both);
}

}  // namespace sluice::plan
