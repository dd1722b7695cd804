// A job made ready: model, data, plan and schedules, all checked, nothing of the output written yet.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "runtime/core/work.h"
#include "runtime/exec/gpu.h"
#include "runtime/plan/machine.h"
#include "runtime/plan/planner.h"
#include "runtime/train/checkpoint.h"
#include "runtime/train/config.h"
#include "runtime/train/initial_adapter.h"
#include "runtime/train/lr_schedule.h"
#include "runtime/train/model_setup.h"
#include "runtime/train/run_data.h"
#include "runtime/train/swap_files.h"

namespace sluice::train {

struct Job {
  std::unique_ptr<exec::Gpu> gpu;  // null: none; outlives what was made on it
  Config config;
  std::optional<Resume> resume;
  ModelSetup setup;
  std::unique_ptr<RunData> data;
  models::LossFunction* loss = nullptr;  // in place of cross-entropy, where config.own_loss names one; must outlive it
  LearningRate learning_rate;
  BatchShape batch;
  exec::JobSources sources;
  std::optional<plan::Machine> target;  // that it is planned for, in place of this machine
  exec::BlockPasses passes;
  std::vector<std::filesystem::path> measurements;  // files of the cache that passes and rates are kept in
  SwapPlace swap_place;                             // of a run
  plan::JobShape shape;
  plan::PlanRequest request;
  plan::Planned planned;
  Bytes rated_endurance;  // of all drives; 0: not known, or not asked for: a run has no use for it

  // The checkpoint to resume from is the job's end: nothing was planned.
  bool nothing_left() const { return resume && resume->step == data->steps_total(); }
};

// `inspect` asks nothing of output_dir: the job will not run. `rehearse` neither, and its rates are this machine's,
// beside compute that is only waited for, whatever the target.
enum class Purpose { run, inspect, rehearse };

using MakeData = std::function<std::unique_ptr<RunData>(Config& config, const models::Model& model)>;

// What the program that embeds the runtime brings.
struct ProgramsOwn {
  MakeData make_data;                    // in place of the job's datasets
  models::LossFunction* loss = nullptr;  // as Job::loss
};

// `target`: plans for that machine, which need not be this one; null: for this one, measured. Token files of the job's
// datasets are prepared when the cache has none. Throws SetupError.
Job prepare_job(const Config& config, Purpose purpose, const plan::Machine* target = nullptr,
                WorkObserver& observer = nobody(), const ProgramsOwn& own = {});

// Makes what the job reads and is not there yet: the base in low bits. Throws as LowBitBase::make.
void make_base(Job& job, WorkObserver& observer = nobody());

// A new adapter starts from a file, like everything else: writes it into `folder`, makes it the job's source, and
// returns its path, for the caller to remove once it is loaded. Empty when the job needs none. After make_base.
std::filesystem::path start_adapter(Job& job, AdapterValues values, const std::filesystem::path& folder,
                                    WorkObserver& observer = nobody());

}  // namespace sluice::train
