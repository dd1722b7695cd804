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

// Of both directions at once, each way half.
inline void share_drive(MachineProfile& profile, BytesPerSecond both) {
  const auto share = [&](Lane a, Lane b, BytesPerSecond alone) {
    const double left = both.count / 2 / alone.count;
    profile.beside[static_cast<size_t>(a)][static_cast<size_t>(b)] = left < 1 ? left : 1;
  };
  share(Lane::read, Lane::write, profile.disk_read);
  share(Lane::write, Lane::read, profile.disk_write);
}

}  // namespace sluice::plan
