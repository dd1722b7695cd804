// A job from its config to its result: prepares the data, plans, trains step by step, evaluates, saves.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/train/config.h"
#include "runtime/train/entry.h"

namespace sluice::train {

// Both throw SetupError before anything is written, and RunError afterwards with the last checkpoint intact.
// Returns the exit code.
int run_training(const Config& config, const TrainOptions& options);
int print_plan(const Config& config, const PlanOptions& options);

}  // namespace sluice::train
