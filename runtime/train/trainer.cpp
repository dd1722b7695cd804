#include "runtime/train/trainer.h"

#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <optional>

#include "runtime/core/console.h"
#include "runtime/core/result.h"
#include "runtime/exec/trace.h"
#include "runtime/plan/report.h"
#include "runtime/train/advice.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checkpoint_save.h"
#include "runtime/train/event_file.h"
#include "runtime/train/job.h"
#include "runtime/train/kept_checkpoints.h"
#include "runtime/train/machine_file.h"
#include "runtime/train/metrics.h"
#include "runtime/train/open_files.h"
#include "runtime/train/output_folder.h"
#include "runtime/train/plan_diff.h"
#include "runtime/train/rehearsal.h"
#include "runtime/train/stop_request.h"
#include "runtime/train/training_run.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// What the command line shows of a run, and keeps of it for a trace.
class CommandObserver : public RunObserver {
 public:
  CommandObserver(const Job& job, const TrainOptions& options)
      : job_(job),
        options_(options),
        line_(console_, job.steps.steps_total(), options.quiet, job.config.logging_steps) {
    if (!job.config.tensorboard) return;
    SpacePatience patience = SpacePatience::of(job.config.offload.enospc_timeout);
    patience.say = [this](const std::string& text) { errors_.say(text); };
    events_.emplace(job.config.output_dir / "runs", (job.resume ? job.resume->step : 0) + 1, patience);
  }

  void phase_ended(const PhaseEnd& end) override {
    if (options_.trace.empty()) return;
    trace_.add("executed", end.schedule, end.result.ops, end.begin_us);
    trace_.add("simulated", end.schedule,
               plan::simulate(end.schedule, job_.planned.layout.buffers(), job_.request.profile).ops, end.begin_us);
  }
  void step_ended(const StepRecord& record) override {
    line_.show(record);
    report(record.step, {{"train/loss", record.loss},
                         {"train/grad_norm", record.grad_norm},
                         {"train/learning_rate", record.learning_rate},
                         {"speed/tokens_per_second", record.tokens_per_second},
                         {"speed/percent_of_bound", record.percent_of_bound},
                         {"disk/read_bytes", static_cast<double>(record.disk_read_bytes)},
                         {"disk/write_bytes", static_cast<double>(record.disk_write_bytes)},
                         {"memory/device_peak_bytes", static_cast<double>(record.device_peak_bytes)},
                         {"memory/host_peak_bytes", static_cast<double>(record.host_peak_bytes)}});
  }
  void validated(const Validation& validation) override {
    report(validation.step, {{"eval/loss", validation.loss}});
    if (!std::isfinite(validation.loss))
      errors_.say("warning: a validation row overflows fp16, which ends at 65504; bf16: true does not");
    char text[64];
    std::snprintf(text, sizeof text, "validation loss %.4f ", validation.loss);
    console_.say(text + std::string(validation.when));
  }
  void note(const std::string& line) override { errors_.say(line); }

  void say(const std::string& line) { console_.say(line); }
  void save_trace() const {
    if (!options_.trace.empty()) trace_.save(options_.trace);
  }

 private:
  // Pictures are not worth a run: the log beside them has the same figures.
  void report(int64_t step, const Scalars& scalars) {
    if (!events_) return;
    try {
      events_->write(step, scalars);
    } catch (const RunError& failure) {
      errors_.say(std::string("warning: nothing more for TensorBoard: ") + failure.what());
      events_.reset();
    }
  }

  const Job& job_;
  const TrainOptions& options_;
  Console console_{STDOUT_FILENO}, errors_{STDERR_FILENO};
  ProgressLine line_;
  exec::TraceWriter trace_;
  std::optional<EventFile> events_;  // `report_to: tensorboard`
};

// Returns the exit code that a shell expects of a program that a signal ended.
int stop_after_signal(TrainingRun& run, CommandObserver& observer, int signal) {
  const std::optional<fs::path> checkpoint = run.stop();
  observer.save_trace();
  observer.say(std::string("stopped by ") + (signal == SIGINT ? "SIGINT" : "SIGTERM") + " after step " +
               std::to_string(run.steps_done()) + " of " + std::to_string(run.steps_total()) +
               "; checkpoint: " + (checkpoint ? checkpoint->string() : "none"));
  if (checkpoint) observer.say("to go on, run it again with auto_resume_from_checkpoints=true");
  return 128 + signal;
}

int train(Job& job, const TrainOptions& options, const OutputFolder& folder) {
  CommandObserver observer(job, options);
  TrainingRun run(job, folder, observer);
  run.load();
  const StopRequest stop;
  while (!run.ended()) {
    run.step();
    if (!run.ended() && stop.signal() != 0) return stop_after_signal(run, observer, stop.signal());
  }
  run.finish();
  observer.save_trace();
  observer.say("result: " + job.config.output_dir.string());
  return 0;
}

plan::Forecast forecast_of(const Job& job) {
  const int64_t steps = job.steps.steps_total() - (job.resume ? job.resume->step : 0);
  return plan::forecast_of(job.planned, job.shape, job.request.profile, steps);
}

std::string pace_text(double pace) {
  if (pace == 1) return {};
  char text[160];
  std::snprintf(text, sizeof text,
                "compute counts %.2f times what its passes were measured at: so it went in past jobs on this machine\n",
                pace);
  return text;
}

std::string plan_text(const Job& job) {
  return plan::to_yaml(job.planned.plan, job.shape) + '\n' +
         plan::memory_table(job.planned.memory, job.shape, job.request.caps) + '\n' +
         plan::forecast_table(forecast_of(job), job.rated_endurance) + pace_text(job.passes.pace);
}

// A job that had ended already, or was stopped before its result was published.
int publish_finished(const Job& job) {
  std::printf("nothing is left to train: %s is at step %lld of %lld\n", job.resume->folder.c_str(),
              static_cast<long long>(job.resume->step), static_cast<long long>(job.steps.steps_total()));
  const bool in_swap_files = has_manifest(job.resume->folder);
  prune_checkpoints(job.config.output_dir,
                    in_swap_files ? std::max(checkpoint_sets(job.config), 1) : job.config.save_total_limit);
  if (in_swap_files)
    export_model(job.resume->folder, job.setup, job.config);
  else
    publish_result(job.resume->folder, job.config.output_dir);
  std::printf("result: %s\n", job.config.output_dir.c_str());
  return 0;
}

// The error, and what is left of the run to go on from.
Error with_way_on(Error error, const Job& job) {
  if (error.code == ErrorCode::capacity) {
    error.message += "\nThe plan was to fit:\n" + plan::memory_table(job.planned.memory, job.shape, job.request.caps) +
                     "so this is a bug of Sluice, unless something else has taken of that memory since the start";
    error.hint = "please report it with this table; until then lower offload.max_gpu or offload.max_cpu by a tenth";
  }
  const std::vector<fs::path> checkpoints = find_resumable(job.config.output_dir);
  if (!error.hint.empty()) error.hint += "; ";
  if (!fs::is_directory(job.config.output_dir))
    error.hint += "the checkpoints that were written are where " + job.config.output_dir.string() + " was";
  else if (checkpoints.empty())
    error.hint += "no checkpoint was written yet: the run starts anew";
  else
    error.hint += checkpoints.back().string() + " is intact: auto_resume_from_checkpoints: true goes on from it";
  return error;
}

}  // namespace

int print_plan(const Config& config, const PlanOptions& options) {
  std::optional<plan::Machine> machine;
  if (!options.machine.empty()) machine = read_machine(options.machine);
  const plan::Machine* target = machine ? &*machine : nullptr;
  Job job = prepare_job(config, options.rehearse ? Purpose::rehearse : Purpose::inspect, target);
  if (options.beside) {
    const Job other = prepare_job(*options.beside, Purpose::inspect, target);
    std::printf("%s", line_diff(plan_text(job), plan_text(other)).c_str());
  } else if (options.json) {
    std::printf("%s\n", plan::to_json(job.planned, job.shape, job.request.caps, forecast_of(job)).c_str());
  } else {
    std::printf("%s%s", plan_text(job).c_str(), to_text(faster_changes(job)).c_str());
  }
  if (options.rehearse) {
    std::fflush(stdout);
    rehearse(job, target);
  }
  return 0;
}

int run_training(const Config& config, const TrainOptions& options) {
  const IgnoredSignals ignored;
  OutputFolder folder(config.output_dir);
  if (!options.dry_run) folder.lock_if_there();
  Job job = prepare_job(config, options.dry_run ? Purpose::inspect : Purpose::run);
  if (options.dry_run) {
    std::printf("%s", plan_text(job).c_str());
    const plan::Phase steady = plan::steady_phase(job.planned.plan, job.shape.micro_batches);
    std::printf(
        "%s",
        plan::to_table(job.planned.schedule(steady, job.shape, job.request), job.planned.layout.buffers()).c_str());
    return 0;
  }
  // Each source, and as many files of a checkpoint.
  allow_open_files(2 * static_cast<int64_t>(job.sources.files.size()));
  folder.make_and_lock();
  if (job.nothing_left()) return publish_finished(job);
  try {
    return train(job, options, folder);
  } catch (const RunError& failure) {
    throw RunError(with_way_on(failure.error(), job));
  } catch (const fs::filesystem_error& failure) {
    throw RunError(with_way_on(
        {ErrorCode::io, failure.path1().string() + ": " + failure.code().message(), "check the folder and its drive"},
        job));
  }
}

}  // namespace sluice::train
