#include "runtime/train/trainer.h"

#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <optional>

#include "runtime/core/console.h"
#include "runtime/core/live_line.h"
#include "runtime/core/result.h"
#include "runtime/core/work_line.h"
#include "runtime/exec/trace.h"
#include "runtime/plan/report.h"
#include "runtime/train/advice.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/event_file.h"
#include "runtime/train/job.h"
#include "runtime/train/job_text.h"
#include "runtime/train/machine_file.h"
#include "runtime/train/metrics.h"
#include "runtime/train/open_files.h"
#include "runtime/train/output_folder.h"
#include "runtime/train/plan_diff.h"
#include "runtime/train/rehearsal.h"
#include "runtime/train/step_lines.h"
#include "runtime/train/stop_request.h"
#include "runtime/train/training_run.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// Where what lives is drawn: on the stream that steps are shown on, else beside it; -1: nowhere.
int live_stream(const TrainOptions& options) {
  const bool terminal = is_terminal(STDOUT_FILENO);
  if (options.quiet || (options.json && terminal)) return -1;
  return terminal ? STDOUT_FILENO : STDERR_FILENO;
}

// The streams of a command, with the line that lives on one of them. Results are `console`'s; with JSON on stdout
// people read stderr alone.
struct Streams {
  explicit Streams(const TrainOptions& options)
      : live(live_stream(options)), json(STDOUT_FILENO, &live, GapText::json), quiet(options.quiet) {
    console = options.json ? &errors : &plain;
  }
  WorkObserver& work() { return quiet ? nobody() : line; }

  LiveLine live;
  Console plain{STDOUT_FILENO, &live}, json, errors{STDERR_FILENO, &live};
  Console* console;
  WorkLine line{live, errors};
  const bool quiet;
};

// Notes and long work, on a command's streams.
class StreamObserver : public RunObserver {
 public:
  explicit StreamObserver(Streams& streams) : streams_(streams) {}

  void work_began(const std::string& what, int64_t total, WorkUnit unit) override {
    streams_.work().work_began(what, total, unit);
  }
  void work_advanced(int64_t done) override { streams_.work().work_advanced(done); }
  void work_ended() override { streams_.work().work_ended(); }
  bool is_asked_to_stop() const override { return StopRequest::noted() != 0; }
  void note(const std::string& line) override { streams_.errors.say(line); }

 protected:
  Streams& streams_;  // must outlive it
};

// What the command line shows of a run, and keeps of it for a trace.
class CommandObserver : public StreamObserver {
 public:
  // All three must outlive it.
  CommandObserver(const Job& job, const TrainOptions& options, Streams& streams)
      : StreamObserver(streams),
        job_(job),
        options_(options),
        steps_(options.json ? streams.json : streams.plain, streams.live, step_options(job, options)) {
    if (!job.config.tensorboard) return;
    SpacePatience patience = SpacePatience::of(job.config.offload.enospc_timeout);
    patience.say = [this](const std::string& text) { note(text); };
    patience.stops = [this] { return is_asked_to_stop(); };
    events_.emplace(job.config.output_dir / "runs", (job.resume ? job.resume->step : 0) + 1, patience);
  }

  void phase_ended(const PhaseEnd& end) override {
    if (options_.trace.empty()) return;
    trace_.add("executed", end.schedule, end.result.ops, end.begin_us);
    trace_.add("simulated", end.schedule,
               plan::simulate(end.schedule, job_.planned.layout.buffers(), job_.request.profile).ops, end.begin_us);
  }
  void step_advanced(double share) override { steps_.advanced(share); }
  void step_ended(const StepRecord& record) override {
    steps_.ended(record);
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
      streams_.errors.say("warning: a validation row overflows fp16, which ends at 65504; bf16: true does not");
    char text[64];
    std::snprintf(text, sizeof text, "validation loss %.4f ", validation.loss);
    say(text + std::string(validation.when));
  }

  void say(const std::string& line) { streams_.console->say(line); }
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
      note(std::string("warning: nothing more for TensorBoard: ") + failure.what());
      events_.reset();
    }
  }

  static StepLinesOptions step_options(const Job& job, const TrainOptions& options) {
    StepLinesOptions steps;
    steps.output = options.quiet ? StepOutput::none : options.json ? StepOutput::json : StepOutput::lines;
    steps.steps_total = job.data->steps_total();
    steps.steps_before = job.resume ? job.resume->step : 0;
    steps.every = job.config.logging_steps;
    steps.has_device = job.request.memory == plan::DeviceMemory::separate;
    return steps;
  }

  const Job& job_;
  const TrainOptions& options_;
  StepLines steps_;
  exec::TraceWriter trace_;
  std::optional<EventFile> events_;  // `report_to: tensorboard`
};

constexpr const char* kToGoOn = "\nto go on, run it again with auto_resume_from_checkpoints=true";
std::string name_of_signal(int signal) { return signal == SIGINT ? "SIGINT" : "SIGTERM"; }

// Returns the exit code that a shell expects of a program that a signal ended.
int stop_after_signal(TrainingRun& run, CommandObserver& observer, int signal) {
  const std::optional<fs::path> checkpoint = run.stop();
  observer.save_trace();
  observer.say("stopped by " + name_of_signal(signal) + " after step " + std::to_string(run.steps_done()) + " of " +
               std::to_string(run.steps_total()) +
               "; checkpoint: " + (checkpoint ? checkpoint->string() + kToGoOn : "none"));
  return 128 + signal;
}

int train(Job& job, const TrainOptions& options, const OutputFolder& folder, Streams& streams) {
  CommandObserver observer(job, options, streams);
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

// A job that had ended already, or was stopped before its result was published.
int publish(const Job& job, Streams& streams) {
  streams.console->say("nothing is left to train: " + job.resume->folder.string() + " is at step " +
                       std::to_string(job.resume->step) + " of " + std::to_string(job.data->steps_total()));
  StreamObserver observer(streams);
  publish_finished(job, observer);
  streams.console->say("result: " + job.config.output_dir.string());
  return 0;
}

// A signal ended a wait for room: nothing more can be written, and the newest checkpoint is what there is.
int stopped_without_room(const Error& error, const Job& job, int signal) {
  const std::vector<fs::path> checkpoints = find_resumable(job.config.output_dir);
  Console(STDOUT_FILENO)
      .say("stopped by " + name_of_signal(signal) + " while it waited for room: " + error.message + "; checkpoint: " +
           (checkpoints.empty() ? "none" : checkpoints.back().string()) + (checkpoints.empty() ? "" : kToGoOn));
  return 128 + signal;
}

}  // namespace

int print_plan(const Config& config, const PlanOptions& options) {
  std::optional<plan::Machine> machine;
  if (!options.machine.empty()) machine = read_machine(options.machine);
  const plan::Machine* target = machine ? &*machine : nullptr;
  Streams streams({});
  Job job = prepare_job(config, options.rehearse ? Purpose::rehearse : Purpose::inspect, target, streams.work());
  if (options.beside) {
    Job other = prepare_job(*options.beside, Purpose::inspect, target, streams.work());
    other.shape.process_bytes = job.shape.process_bytes;  // not what planning the first one has left in this process
    other.planned = plan::make_plan(other.shape, other.request);
    std::printf("%s", line_diff(plan_text(job), plan_text(other)).c_str());
  } else if (options.json) {
    std::printf("%s\n", plan::to_json(job.planned, job.shape, job.request.caps, forecast_of(job)).c_str());
  } else {
    std::printf("%s%s", plan_text(job).c_str(), to_text(faster_changes(job)).c_str());
  }
  if (options.rehearse) {
    std::fflush(stdout);
    rehearse(job);
  }
  return 0;
}

int run_training(const Config& config, const TrainOptions& options) {
  const IgnoredSignals ignored;
  OutputFolder folder(config.output_dir);
  if (!options.dry_run) {
    folder.lock_if_there();
    restore_replaced_checkpoints(config.output_dir);
  }
  Streams streams(options);
  Job job = prepare_job(config, options.dry_run ? Purpose::inspect : Purpose::run, nullptr, streams.work());
  if (options.dry_run && options.json) {
    std::printf("%s\n", plan::to_json(job.planned, job.shape, job.request.caps, forecast_of(job)).c_str());
    return 0;
  }
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
  try {
    return with_way_on(
        job, [&] { return job.nothing_left() ? publish(job, streams) : train(job, options, folder, streams); });
  } catch (const RunError& failure) {
    if (failure.error().code != ErrorCode::interrupted) throw;
    return stopped_without_room(failure.error(), job, StopRequest::noted());
  }
}

}  // namespace sluice::train
