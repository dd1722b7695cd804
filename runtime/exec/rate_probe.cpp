#include "runtime/exec/rate_probe.h"

#include <algorithm>

#include "runtime/core/processor.h"
#include "runtime/core/result.h"
#include "runtime/exec/probe_loads.h"

namespace sluice::exec {
namespace {

// Long enough to outlast the burst of a drive's cache and the slice of a scheduler.
constexpr double kSeconds = 0.2;
constexpr int64_t kRequestBytesMost = MiB(4).count, kRequestBytesLeast = MiB(1).count;
constexpr size_t kCopyBytesMost = MiB(192).count;  // half of it is one piece of work, a small part of kSeconds
constexpr int64_t kDepthMost = 24, kDepthLeast = 8;
static_assert(kRateProbeBytes >= OptimizerLoad::kBytesMost);
static_assert(kRateProbeBytes.count >= kDepthMost * kRequestBytesMost);
static_assert(kRateProbeBytesLeast.count >= kDepthLeast * kRequestBytesLeast);

class Probe {
 public:
  // `compute` null: nothing runs beside the other lanes.
  Probe(plan::MachineProfile& profile, Load* compute)
      : profile_(profile), compute_(compute), compute_alone_(compute ? pace_of(*compute, kSeconds) : 0) {}

  // The lane's rate; and what it and compute leave of one another.
  BytesPerSecond lane(Lane lane, Load& load) {
    const double alone = pace_of(load, kSeconds);
    if (!compute_) return {alone};
    const Paces together = paces_together(*compute_, load, kSeconds);
    beside(Lane::compute, lane) = share_kept(together.first, compute_alone_);
    beside(lane, Lane::compute) = share_kept(together.second, alone);
    return {alone};
  }

 private:
  double& beside(Lane a, Lane b) { return profile_.beside[static_cast<size_t>(a)][static_cast<size_t>(b)]; }

  plan::MachineProfile& profile_;
  Load* compute_;
  double compute_alone_;
};

// Copies to the host are the same work as copies to the device.
plan::LaneMatrix as_copies_each_way(plan::LaneMatrix beside) {
  constexpr auto compute = static_cast<size_t>(Lane::compute), in = static_cast<size_t>(Lane::h2d),
                 out = static_cast<size_t>(Lane::d2h);
  beside[compute][out] = beside[compute][in];
  beside[out][compute] = beside[in][compute];
  return beside;
}

}  // namespace

plan::MachineProfile probe_rates(swap::SwapEngine* swap, const RateProbeOptions& options) {
  const auto memory_bytes = static_cast<int64_t>(options.memory.size());
  SLUICE_CHECK(memory_bytes >= kRateProbeBytesLeast.count, "the probe needs its memory");
  plan::MachineProfile profile;
  RepeatedLoad compute(options.compute_load);
  Probe probe(profile, options.compute_load ? &compute : nullptr);
  const int threads = options.optimizer_threads > 0 ? options.optimizer_threads : usable_cores();
  {
    OptimizerLoad update(threads, options.memory, options.update);
    profile.optimizer = probe.lane(Lane::optim, update);
  }
  if (options.link_each_way.count > 0) {
    CopyLoad copy(options.memory.first(std::min(options.memory.size(), kCopyBytesMost)));
    profile.h2d = std::min(probe.lane(Lane::h2d, copy), options.link_each_way);
    profile.d2h = profile.h2d;
    profile.beside = as_copies_each_way(profile.beside);
  }
  if (swap == nullptr) return profile;
  const int64_t request =
      std::clamp(round_down(memory_bytes / kDepthLeast, MiB(1).count), kRequestBytesLeast, kRequestBytesMost);
  const int64_t depth = std::min(memory_bytes / request, kDepthMost);
  const std::vector<swap::ExtentId> extents = make_extents(*swap, options.memory, request, 2 * depth);
  const auto drive = [&](DriveMode mode) {
    return DriveLoad(*swap, options.memory, {extents, request, static_cast<int>(depth), mode});
  };
  DriveLoad read = drive(DriveMode::read), write = drive(DriveMode::write), both = drive(DriveMode::both);
  profile.disk_read = probe.lane(Lane::read, read);
  profile.disk_write = probe.lane(Lane::write, write);
  share_drive(profile, {pace_of(both, kSeconds)});
  return profile;
}

}  // namespace sluice::exec
