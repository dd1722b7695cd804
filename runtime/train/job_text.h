// What a prepared job says of itself, and of what is left of it when it fails.
#pragma once

#include <filesystem>
#include <string>

#include "runtime/core/result.h"
#include "runtime/plan/report.h"
#include "runtime/train/job.h"

namespace sluice::train {

// Of the steps that are left.
plan::Forecast forecast_of(const Job& job);
// The plan with its reasons, memory by tier and tag, times: what `sluice plan` prints.
std::string plan_text(const Job& job);

// The error, and what is left of the run to go on from.
Error with_way_on(Error error, const Job& job);

// Does what may fail while the job runs; failures say what is left to go on from. Throws RunError.
template <class Act>
auto with_way_on(const Job& job, const Act& act) {
  try {
    return act();
  } catch (const RunError& failure) {
    throw RunError(with_way_on(failure.error(), job));
  } catch (const std::filesystem::filesystem_error& failure) {
    throw RunError(with_way_on(
        {ErrorCode::io, failure.path1().string() + ": " + failure.code().message(), "check the folder and its drive"},
        job));
  }
}

}  // namespace sluice::train
