// A program's job in the words of the runtime.
#pragma once

#include <sluice/errors.h>
#include <sluice/job.h>

#include <exception>

#include "runtime/core/result.h"
#include "runtime/train/config.h"
#include "runtime/train/job.h"
#include "runtime/train/own_data.h"

namespace sluice::embed {

// Throws SetupError.
train::Config config_of(const Job& job);
// Empty where the job names its datasets.
train::MakeData data_of(const Job& job);
train::OwnSource source_of(const DataSource& data, const train::OwnLimits& limits);

// What the program's own source threw, on its way through the runtime, which must not take it for an error of its own.
struct ThrownBySource {
  std::exception_ptr exception;
};

Plan plan_of(const train::Job& job);

// Does what throws the runtime's errors, and throws in their place those that the public headers promise.
template <class Act>
auto translated(const Act& act) {
  try {
    return act();
  } catch (const SetupError& error) {
    throw JobError(error.what());
  } catch (const RunError& error) {
    throw TrainingError(error.what());
  }
}

}  // namespace sluice::embed
