// A job's tensors by their names, read from wherever they are.
#pragma once

#include <sluice/trainer.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/train/job.h"
#include "runtime/train/training_run.h"

namespace sluice::embed {

std::vector<Parameter> parameters_of(const train::Job& job);

// The newest values, as compute sees them. `run`: null where nothing is left to train. Throws SetupError: no such
// tensor, another size, in low bits; RunError.
void read_parameter(const train::Job& job, train::TrainingRun* run, const std::string& name, std::span<float> values);

// The same where they lie; nothing where that is not in RAM.
std::optional<ParameterView> view_parameter(const train::Job& job, train::TrainingRun* run, const std::string& name);

// Puts values in the place of a trained tensor's newest ones: its master becomes these fp32 numbers. Moments stay.
// Throws SetupError: no such tensor, frozen, another size, a number that compute's dtype does not hold, before the
// first step; RunError.
void write_parameter(const train::Job& job, train::TrainingRun* run, const std::string& name,
                     std::span<const float> values);

}  // namespace sluice::embed
