// `sluice profile JOB`: some steps of a job, run as `train` runs them and taken apart; nothing of them is kept.
#pragma once

#include "runtime/train/entry.h"

namespace sluice::train {

// Weights, states and swap files lie where the job has them, output_dir in a scratch folder beside the job's own, which
// is not touched. Prints to stdout. Returns 128 + a signal's number when one stopped it; what was measured until then
// is lost. Throws SetupError and RunError.
int run_profile(const Config& config, const ProfileOptions& options);

}  // namespace sluice::train
