// Measures, in a few seconds, the rates that a job's time and bound are computed from: its drives, its number of
// optimizer threads, and what these and its compute leave of one another. The full probe of a machine is another
// matter.
#pragma once

#include <functional>
#include <span>

#include "runtime/exec/probe_loads.h"
#include "runtime/plan/machine_profile.h"
#include "swap/swap_engine.h"

namespace sluice::exec {

struct RateProbeOptions {
  // What compute does all the time, once per call (block_pass.h). None: it takes nothing from the other lanes.
  std::function<void()> compute_load;
  int optimizer_threads = 0;  // 0: one per core
  UpdateKind update;
  // Host memory for the probe, 4096-byte aligned. Its content is lost. Less than kRateProbeBytes measures a little less
  // well: caches hold more of it, drives have fewer requests in flight.
  std::span<std::byte> memory;
  // Of an emulated device: its copies take at least their bytes over this, and at least what copying takes. 0: none.
  BytesPerSecond link_each_way{0};
};
inline constexpr Bytes kRateProbeBytes = MiB(1088), kRateProbeBytesLeast = MiB(8);

// Without a swap engine nothing is written, and the drive's rates stay zero. Throws RunError when the drive fails.
plan::MachineProfile probe_rates(swap::SwapEngine* swap, const RateProbeOptions& options);

}  // namespace sluice::exec
