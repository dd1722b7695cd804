// Measures, in about a second, the rates that a job's bound is computed from. The full probe of a machine is another
// matter; this one knows the job: its GEMM shape, its drives, its number of optimizer threads.
#pragma once

#include <span>

#include "runtime/core/dtype.h"
#include "runtime/plan/machine_profile.h"
#include "swap/swap_engine.h"

namespace sluice::exec {

struct RateProbeOptions {
  Dtype compute_dtype = Dtype::f32;
  // The job's largest layer GEMM: [tokens, in] x [in, out].
  int64_t tokens = 512, in = 576, out = 1536;
  int optimizer_threads = 0;
  // Host memory for the probe, at least kRateProbeBytes, 4096-byte aligned. Its content is lost.
  std::span<std::byte> memory;
  plan::MachineProfile emulated;  // h2d and d2h are taken from here
};
inline constexpr Bytes kRateProbeBytes = MiB(64);

// Throws RunError when the drive fails.
plan::MachineProfile probe_rates(swap::SwapEngine& swap, const RateProbeOptions& options);

}  // namespace sluice::exec
