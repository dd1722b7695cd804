// What else could be: other settings of a job that fit, and changes that would make it faster. Each is planned, none is
// guessed.
#pragma once

#include <string>
#include <vector>

#include "runtime/train/job.h"

namespace sluice::train {

// "set micro_batch_size to 2": settings beside the caps, each with a plan that fits. For a job that does not.
std::vector<std::string> settings_that_fit(const Job& job);

struct Change {
  std::string what;              // "max_cpu 6.00 GiB (+50%)"
  double tokens_per_second = 0;  // of its plan
  double gain = 0;               // over the job's own, as a share
};

// Those of free settings, formats of states, memory and drives that gain more than 3%, the cheapest first. Plans a job
// per change.
std::vector<Change> faster_changes(const Job& job);
std::string to_text(const std::vector<Change>& changes);

}  // namespace sluice::train
