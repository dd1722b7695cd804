// The rates that a job is planned with, measured on this machine for this job.
#pragma once

#include "runtime/train/job.h"
#include "swap/swap_engine.h"

namespace sluice::train {

// The drive is probed, in a folder of its own that is gone afterwards, only when the job cannot do without it. Takes
// 1 s, with the drive 3 s. Throws SetupError when the drive cannot be used.
plan::MachineProfile measure_rates(const Job& job);
// The same with nothing taken by compute, and copies at the link of link_to_rehearse.
plan::MachineProfile measure_rates_without_compute(const Job& job);

// What updates of the job's large tensors work on.
exec::UpdateKind update_kind(const Job& job);

// What measuring the rates takes: as much as the job's host cap leaves of it, and no more than all that the job is
// about.
Bytes probe_memory(const Job& job);

// Copies of the emulated device take at least their bytes over this: the link of the machine that it emulates.
BytesPerSecond emulated_link(const Config& config);
// What copies are held to when compute is only waited for: the target's link, this GPU's, or the emulated one.
BytesPerSecond link_to_rehearse(const Job& job);

}  // namespace sluice::train
