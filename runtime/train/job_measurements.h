// How long a job's blocks take and at which rates its lanes work, on this machine: measured at the first start of such
// a job and kept in the cache folder. A start takes seconds less then, and two starts of one job plan with one set of
// figures: what `sluice plan` said is what `sluice train` does.
//
// Passes are measured within a second. Over minutes a processor may compute otherwise: it is allowed a higher clock for
// seconds only, or neighbours share it. By how much, on this machine, is learnt from the steps of past jobs, and passes
// measured from then on are scaled with it.
//
// Kept for a week, by all that the figures depend on: hardware, libraries, this build, the model's shape, adapter,
// dtype, tokens, threads; rates also by device, drives and the memory that measuring may take. A folder that cannot be
// written, or a file that cannot be read, costs measuring again and nothing else.
#pragma once

#include "runtime/train/job.h"

namespace sluice::train {

// Both note in `job.measurements` where the figures are kept. Measures with caches of at most `spare` beside
// (exec::measure_block_passes, which blocks and throws as said there).
exec::BlockPasses passes_of(Job& job, Bytes spare);
// Measured anew, at `place`, and scaled with the usual pace of steps on this machine: the median of the jobs that
// remember_pace has told of, in which the measured passes count as one job more.
exec::BlockPasses measured_passes(const Job& job, exec::PassPlace& place, Bytes spare);
// `paces`: of each step, what compute took over what the plan foresaw. The first two of a run warm up and do not count;
// of fewer than three others nothing is remembered.
void remember_pace(const Job& job, std::vector<double> paces);

// After passes and shape are known; job_rates.h.
plan::MachineProfile rates_of(Job& job);

// The next start of every job measures.
void forget_measurements();
// The next start of this job does, when its steps computed so much faster than measured (time over measured time) that
// something else must have kept the machine busy then.
void forget_if_disturbed(const Job& job, double compute_pace);

}  // namespace sluice::train
