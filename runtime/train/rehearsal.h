// A job's steps with everything real but compute, which is waited for: whether drives, copies and the update keep up
// with a GPU that may not be here.
#pragma once

#include "runtime/train/job.h"

namespace sluice::train {

// Runs a few steps of a job prepared for Purpose::rehearse and prints them beside the simulation, lane by lane. Copies
// take at least what the link of Job::target takes; without one: this machine's own. Reads the model's files and swaps
// in nvme_path; writes nothing that stays. Throws SetupError when the memory of the plan, the device's included, is not
// there, and RunError when a drive fails.
void rehearse(Job& job);

}  // namespace sluice::train
