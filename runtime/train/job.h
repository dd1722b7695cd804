// A job made ready: model, data, plan and schedules, all checked, nothing of the output written yet.
#pragma once

#include <memory>
#include <optional>

#include "runtime/plan/machine.h"
#include "runtime/plan/planner.h"
#include "runtime/train/checkpoint.h"
#include "runtime/train/config.h"
#include "runtime/train/data.h"
#include "runtime/train/lr_schedule.h"
#include "runtime/train/model_setup.h"

namespace sluice::train {

struct Job {
  Config config;
  std::optional<Resume> resume;
  ModelSetup setup;
  std::unique_ptr<TokenDataset> training;
  std::unique_ptr<TokenDataset> validation;  // null: none
  BatchPlan steps;
  LearningRate learning_rate;
  BatchShape batch;
  exec::JobSources sources;
  exec::BlockPasses passes;
  plan::JobShape shape;
  plan::PlanRequest request;
  plan::Planned planned;
  Bytes rated_endurance;  // of all drives; 0: not known

  // The checkpoint to resume from is the job's end: nothing was planned.
  bool nothing_left() const { return resume && resume->step == steps.steps_total(); }
};

// `inspect` asks nothing of output_dir: the job will not run.
enum class Purpose { run, inspect };

// Prepares the token files when the cache has none. `target`: plans for that machine, which need not be this one; null:
// for this one, measured. Throws SetupError.
Job prepare_job(const Config& config, Purpose purpose, const plan::Machine* target = nullptr);

}  // namespace sluice::train
