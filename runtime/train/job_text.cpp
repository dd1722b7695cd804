#include "runtime/train/job_text.h"

#include <cstdio>
#include <vector>

#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/swap_files.h"

namespace sluice::train {

namespace fs = std::filesystem;

plan::Forecast forecast_of(const Job& job) {
  const int64_t steps = job.data->steps_total() - (job.resume ? job.resume->step : 0);
  return plan::forecast_of(job.planned, job.shape, job.request.profile, steps);
}

namespace {

std::string pace_text(double pace) {
  if (pace == 1) return {};
  char text[160];
  std::snprintf(text, sizeof text,
                "compute counts %.2f times what its passes were measured at: so it went in past jobs on this machine\n",
                pace);
  return text;
}

}  // namespace

std::string plan_text(const Job& job) {
  return plan::to_yaml(job.planned.plan, job.shape) + '\n' +
         plan::memory_table(job.planned.memory, job.shape, job.request.caps) + '\n' +
         plan::forecast_table(forecast_of(job), job.rated_endurance) + pace_text(job.passes.pace);
}

// The error, and what is left of the run to go on from.
Error with_way_on(Error error, const Job& job) {
  if (error.code == ErrorCode::capacity) {
    error.message += "\nThe plan was to fit:\n" + plan::memory_table(job.planned.memory, job.shape, job.request.caps) +
                     "so this is a bug of Sluice, unless something else has taken of that memory since the start";
    error.hint = "please report it with this table; until then lower offload.max_gpu or offload.max_cpu by a tenth";
  }
  std::vector<fs::path> checkpoints = find_resumable(job.config.output_dir);
  const bool had_some = !checkpoints.empty();
  std::erase_if(checkpoints, [](const fs::path& each) { return !has_swap_files(each); });
  if (!error.hint.empty()) error.hint += "; ";
  if (!fs::is_directory(job.config.output_dir))
    error.hint += "the checkpoints that were written are where " + job.config.output_dir.string() + " was";
  else if (checkpoints.empty() && had_some)
    error.hint += "the checkpoints went with their swap files: the run starts anew";
  else if (checkpoints.empty())
    error.hint += "no checkpoint was written yet: the run starts anew";
  else
    error.hint += checkpoints.back().string() + " is intact: auto_resume_from_checkpoints: true goes on from it";
  return error;
}

}  // namespace sluice::train
