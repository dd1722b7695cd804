// A prepared job as a run that is driven from outside: loaded, trained step by step, finished or stopped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/core/work.h"
#include "runtime/exec/executor.h"
#include "runtime/train/job.h"
#include "runtime/train/metrics.h"
#include "runtime/train/output_folder.h"

namespace sluice::train {

// A phase that has been executed. The references hold during the call alone.
struct PhaseEnd {
  const plan::Phase& phase;
  const plan::Schedule& schedule;
  const exec::PhaseResult& result;
  double begin_us = 0;  // from the run's construction to the phase's begin
};

struct Validation {
  double loss = 0;        // mean over the supervised tokens of the validation rows; not finite where fp16 overflows
  int64_t step = 0;       // done when it was found
  std::string_view when;  // "before training", "at this step", ...
};

// What a run tells, in the order in which it happens: on the thread that drives the run, but for notes, and for how far
// long work is (loading, quantising, checkpoints, the result). Nothing here may throw, or call the run.
class RunObserver : public WorkObserver {
 public:
  // Of a step: its phases, then its end; checkpoints and validation follow.
  virtual void phase_ended(const PhaseEnd&) {}
  // How much of the running step's ops has ended: often.
  virtual void step_advanced(double /*share*/) {}
  virtual void step_ended(const StepRecord&) {}
  virtual void validated(const Validation&) {}
  virtual void checkpoint_written(const std::filesystem::path& /*folder*/, int64_t /*step*/) {}
  // Whether the run is asked to stop: nobody waits for room on a full drive any more. Asked often while somebody does,
  // on any thread.
  virtual bool is_asked_to_stop() const { return false; }
  // A line for people, of what they should know and need not act on. Any thread.
  virtual void note(const std::string& line) = 0;
};

// One thread drives it. Every call throws RunError when the run failed; then nothing but the destructor may follow, and
// the newest checkpoint is intact.
class TrainingRun {
 public:
  // Allocates everything, memory and disk, that the run will take. `job`: prepared to run, with steps left; `folder`:
  // its output_dir, locked. All three must outlive the run.
  TrainingRun(Job& job, const OutputFolder& folder, RunObserver& observer);
  ~TrainingRun();
  TrainingRun(const TrainingRun&) = delete;
  TrainingRun& operator=(const TrainingRun&) = delete;

  // Weights and states to where the plan has them; opens the log; the first validation. Once, before all below.
  void load();

  int64_t steps_done() const;  // those of the checkpoint that it goes on from among them
  int64_t steps_total() const;
  bool ended() const { return steps_done() == steps_total(); }

  // The next step, with the checkpoint and the validation that are due after it. Not once it has ended. What the data
  // throws comes out before anything has changed.
  StepRecord step();
  // Mean loss per supervised token of the validation rows, with the newest weights. The job must have such rows.
  double evaluate();
  // The same of what `next` gives, each at most as large as a step; nothing: the end.
  using NextBatch = std::function<std::optional<StepData>()>;
  double evaluate(const NextBatch& next);

  // The newest weights of a trained group, as compute sees them.
  void read_weights(int group, const exec::WeightsSink& sink);
  // Changes elements [first, last) of a trained group: its weights, and chunk by chunk its states (exec::ReadBack),
  // which hold what masters have beyond the weights. A checkpoint of this step is written anew, when it is next asked
  // for. Only where has_changed(): some step of this run was not skipped.
  void change(int group, int64_t first, int64_t last, const exec::WeightsChange& weights,
              const exec::StatesChange& states);
  bool has_changed() const;
  // A checkpoint of now, beside those that the job asks for; nothing where no step has changed anything. Returns its
  // folder.
  std::optional<std::filesystem::path> save();

  // After the last step: checkpoint, and the result in output_dir.
  void finish();
  // Before it: checkpoint where there is something to save. Returns the newest that the run can go on from.
  std::optional<std::filesystem::path> stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// What finish() leaves, of a job that nothing is left of (Job::nothing_left). Throws RunError.
void publish_finished(const Job& job, RunObserver& observer);

}  // namespace sluice::train
