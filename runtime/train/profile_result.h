// What profiling a job has found, and how it is said: to people as tables, to programs as JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/plan/live_memory.h"
#include "runtime/plan/step_account.h"
#include "runtime/plan/timeline.h"
#include "runtime/train/job.h"
#include "runtime/train/metrics.h"

namespace sluice::train {

struct ProfiledStep {
  StepRecord record;
  plan::StepAccount account;  // of all its phases
};

// Over all measured steps. Without joules it was not measured, and `why_not` says why.
struct EnergyUse {
  std::optional<double> joules;
  std::string why_not;
};

// One step as a picture.
struct StepPicture {
  std::vector<plan::Span> timeline;
  plan::LiveMemory memory;
  Microseconds time;
};

struct Profile {
  std::string device, host;  // what computes; the processor
  int64_t warm_up = 0;       // steps before those, not measured
  std::vector<ProfiledStep> steps;
  EnergyUse gpu, cpu;
  StepPicture simulated, measured;  // of the steady step; of the last measured one
  Bytes resident_peak;              // of the process, in RAM
  int64_t job_steps = 0;            // that the whole job has
  std::vector<std::string> log;     // lines of the trainer_log.jsonl that the job's output_dir holds

  int64_t tokens() const;  // of all measured steps
  double seconds() const;
  double tokens_per_second() const;
  plan::StepAccount mean() const;  // of the measured steps
};

// Tables of the steps, of the mean step by lane and by block, of memory; then tokens, bytes and joules.
std::string to_text(const Profile& profile, const Job& job);
// One object: summary, disk, energy, steps, mean_step (lanes, and blocks with theirs), plan (as `sluice plan --json`),
// and for pictures simulated, measured and log. Times in seconds, in spans in microseconds.
std::string to_json(const Profile& profile, const Job& job);

}  // namespace sluice::train
