#include "runtime/train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "runtime/core/result.h"
#include "runtime/exec/trace.h"
#include "runtime/plan/report.h"
#include "runtime/plan/seen_rates.h"
#include "runtime/train/advice.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checkpoint_save.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/job.h"
#include "runtime/train/job_measurements.h"
#include "runtime/train/job_rates.h"
#include "runtime/train/kept_checkpoints.h"
#include "runtime/train/loss_scale.h"
#include "runtime/train/machine_file.h"
#include "runtime/train/metrics.h"
#include "runtime/train/open_files.h"
#include "runtime/train/output_folder.h"
#include "runtime/train/plan_diff.h"
#include "runtime/train/progress.h"
#include "runtime/train/rehearsal.h"
#include "runtime/train/stop_request.h"
#include "runtime/train/swap_files.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// What a step did, in one phase or two.
struct StepWork {
  double seconds = 0;
  size_t micro_batches = 0;
  std::array<plan::LaneWork, kLaneCount> lanes{};
  std::array<Microseconds, kLaneCount> busy{};
  Microseconds foreseen_compute;
};

// Seconds since this process was started, whatever it did before main.
double seconds_since_launch() {
  std::ifstream stat("/proc/self/stat"), up("/proc/uptime");
  double uptime = 0;
  up >> uptime;
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string field;
  for (int i = 0; i < 20; ++i) fields >> field;  // the 22nd of the line: starttime, in clock ticks
  return uptime - std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

swap::SwapOptions swap_options_of(const Job& job) {
  swap::SwapOptions options = swap_options(job.config);
  options.file_name = job.swap_place.file_name;
  options.adopts = job.swap_place.adopts();
  return options;
}

SpacePatience patience_of(const Config& config, const std::function<void(const std::string&)>& say) {
  SpacePatience patience = SpacePatience::of(config.offload.enospc_timeout);
  patience.say = say;
  patience.stops = [] { return StopRequest::noted() != 0; };
  patience.watch = CallWatch::of_run(say);
  return patience;
}

class Trainer {
 public:
  // `folder`: locked, and longer there than this.
  Trainer(Job& job, const TrainOptions& options, const OutputFolder& folder)
      : job_(job),
        config_(job.config),
        options_(options),
        folder_(folder),
        swap_(swap_options_of_run()),
        kept_(config_, job.swap_place, job.resume ? job.resume->folder : fs::path(), job.planned.layout, swap_, patience_),
        progress_(job.planned.plan),
        loss_scale_(config_, job.resume ? job.resume->loss_scale : std::nullopt),
        rates_(job.request.profile) {
    make_base(job_);
    initial_adapter_ = start_adapter(job_, AdapterValues::initial, config_.output_dir);
    exec::ExecutorOptions executor_options;
    if (config_.device == DeviceKind::emulated) executor_options.h2d = executor_options.d2h = emulated_link(config_);
    if (job_.gpu)
      executor_options.make_device = [&gpu = *job_.gpu](Bytes memory, exec::EventQueue& events,
                                                        const exec::PhaseClock& clock) {
        return gpu.make_device(memory, events, clock);
      };
    executor_options.watchdog.say = patience_.say;
    executor_options.places = kept_.places();
    refuse_too_little_disk();
    executor_ = std::make_unique<exec::Executor>(job_.setup.model, job_.shape, job_.planned, job_.sources, swap_,
                                                 executor_options);
    kept_.extents_created();
    for (const std::string& warning : swap_.warnings()) errors_.say("note: " + warning);
    for (const std::string& note : executor_->notes()) errors_.say("note: " + note);
  }

  int run() {
    const int64_t first = job_.resume ? job_.resume->step : 0;
    const int64_t total = job_.steps.steps_total();
    if (job_.resume) progress_.resumed();
    run_phase({job_.resume ? plan::PhaseKind::restore : plan::PhaseKind::load, job_.shape.micro_batches}, {});
    if (!initial_adapter_.empty()) fs::remove(initial_adapter_);
    write_file(config_.output_dir / "plan.yaml",
               plan::to_yaml(job_.planned.plan, job_.shape) + "io_backend: " + backend_name() + "\n" + predicted(),
               patience_);
    log_.emplace(config_.output_dir / "trainer_log.jsonl", first, patience_);
    if (job_.validation) say_validation(evaluate(), first == 0 ? "before training" : "before going on");
    start_seconds_ = seconds_since_launch();
    ProgressLine line(console_, total, options_.quiet, config_.logging_steps);
    const StopRequest stop;
    for (int64_t step = first; step < total; ++step) {
      const StepRecord record = train_step(step);
      folder_.check_in_place();
      log_->append(record);
      line.show(record);
      if (waiting_) save_extents(*std::exchange(waiting_, std::nullopt));
      const bool last = step + 1 == total;
      const bool saves = !last && due(config_.save_steps, step + 1) && has_something_to_save();
      if (saves) save_soon(step + 1);
      if (!last && job_.validation && due(config_.eval_steps, step + 1)) say_validation(evaluate(), "at this step");
      if (!last && stop.signal() != 0) return stop_after(step + 1, saves && !waiting_, stop.signal());
    }
    finish(total);
    return 0;
  }

 private:
  static bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

  std::string backend_name() const { return swap_.backend() == swap::BackendKind::uring ? "uring" : "thread"; }

  // What the plan promised, to be held against the log.
  std::string predicted() const {
    const auto peak = [&](Tier tier) {
      const Bytes beside = tier == Tier::disk ? plan::checkpoint_bytes(job_.planned.memory, job_.shape) : Bytes{};
      return std::to_string((job_.planned.memory.peak[static_cast<size_t>(tier)] + beside).count);
    };
    return "predicted:\n  step_seconds: " + std::to_string(job_.planned.steady.time.count / 1e6) +
           "\n  clipped_step_seconds: " + std::to_string(job_.planned.clipped_step().count / 1e6) +
           "\n  device_peak_bytes: " + peak(Tier::device) + "\n  host_peak_bytes: " + peak(Tier::host) +
           "\n  disk_peak_bytes: " + peak(Tier::disk) + "\n";
  }

  exec::PhaseResult run_phase(const plan::Phase& phase, std::span<const models::MicroBatch> micro_batches,
                              const optim::AdamWSettings& early_update = {},
                              exec::WhenNotFinite when_not_finite = exec::WhenNotFinite::fails) {
    const plan::Schedule& schedule = job_.planned.schedule(phase, job_.shape, job_.request);
    const double begin_us = std::chrono::duration<double, std::micro>(Clock::now() - begin_).count();
    exec::PhaseResult result = executor_->run(schedule, {micro_batches, update_, early_update, when_not_finite});
    if (!options_.trace.empty()) {
      trace_.add("executed", schedule, result.ops, begin_us);
      trace_.add("simulated", schedule,
                 plan::simulate(schedule, job_.planned.layout.buffers(), job_.request.profile).ops, begin_us);
    }
    return result;
  }

  // fp16 may overflow: that costs a step, or a validation loss, not the run.
  exec::WhenNotFinite when_not_finite() const {
    return loss_scale_.dynamic() ? exec::WhenNotFinite::is_reported : exec::WhenNotFinite::fails;
  }

  // How long compute is busy in a phase of full micro-batches, by the plan.
  Microseconds foreseen_compute(const plan::Phase& phase) {
    const auto [place, fresh] = foreseen_compute_.try_emplace(phase);
    if (fresh) {
      const plan::Schedule& schedule = job_.planned.schedule(phase, job_.shape, job_.request);
      const auto ops = plan::simulate(schedule, job_.planned.layout.buffers(), job_.request.profile).ops;
      place->second = plan::busy_times(schedule, ops)[static_cast<size_t>(Lane::compute)];
    }
    return place->second;
  }

  // A checkpoint in place is resumed by a plan that puts extents elsewhere: both are there until the next one.
  void refuse_too_little_disk() const {
    const Bytes needed = plan::memory_in(Tier::disk, job_.planned.memory, job_.shape) + kept_.beside();
    const Bytes cap = job_.request.caps[static_cast<size_t>(Tier::disk)];
    if (kept_.beside().count == 0 || needed <= cap) return;
    throw SetupError("going on from " + job_.resume->folder.string() + " takes " + to_string(needed) +
                         " of disk until the next checkpoint, as the plan puts " + to_string(kept_.beside()) +
                         " of it elsewhere, and " + job_.request.cap_origins[static_cast<size_t>(Tier::disk)] + " is " +
                         to_string(cap),
                     "raise it, or give the same offload settings as when the checkpoint was written");
  }

  void flush() {
    if (!progress_.has_pending()) return;
    run_phase(progress_.phase(plan::PhaseKind::flush, job_.shape.micro_batches), {});
    progress_.updated();
  }

  StepRecord train_step(int64_t step) {
    kept_.before_training();
    const StepData data = job_.steps.training(*job_.training, step);
    std::vector<models::MicroBatch> micro_batches = views_of(data, step);
    const bool early = has_early_ && (!job_.planned.plan.undoable || speculates());
    const plan::Phase phase = progress_.step(static_cast<int>(micro_batches.size()), early);
    const optim::AdamWSettings unclipped = update_of(step, 1);
    const swap::SwapCounters before = swap_.counters();
    const exec::PhaseResult result = run_phase(phase, micro_batches, unclipped, when_not_finite());
    progress_.updated();

    StepRecord record;
    record.step = step + 1;
    for (const double sum : result.loss_sums) record.loss += sum;
    // A step of one-token documents alone predicts nothing: its loss is zero, and so are its gradients.
    record.loss /= static_cast<double>(std::max<int64_t>(data.supervised, 1));
    record.grad_norm = std::sqrt(result.squared_gradient_norm) / loss_scale_.value();
    record.learning_rate = unclipped.learning_rate;
    if (loss_scale_.dynamic()) record.loss_scale = loss_scale_.value();
    for (const models::MicroBatch& batch : micro_batches) record.tokens += batch.tokens;
    StepWork work;
    add_work(work, phase, result);
    const float factor = clip_factor(record.grad_norm);
    const optim::AdamWSettings clipped = update_of(step, factor);
    record.skipped =
        loss_scale_.judge(step + 1, {result.squared_gradient_norm, result.bad_output, result.bad_gradient}).has_value();
    if (!record.skipped && early && job_.planned.plan.undoable && factor < 1) redo(clipped, work);
    fill_speed(record, work, before);
    // In a skipped step updates behind backward wrote the second set, which stays the older one, and what waits for the
    // next step is never applied.
    if (record.skipped) return record;

    progress_.stepped(early);
    update_ = clipped;
    constexpr double kNewest = 0.25;
    clipped_share_ += kNewest * ((factor < 1 ? 1.0 : 0.0) - clipped_share_);
    return record;
  }

  // Of step `step`, counted from 0: skipped ones before it do not count. Gradients are those of the scaled loss.
  optim::AdamWSettings update_of(int64_t step, float factor) const {
    const int64_t counted = step - loss_scale_.skipped_steps();
    return {job_.learning_rate.at(counted),
            config_.adam_beta1,
            config_.adam_beta2,
            config_.adam_epsilon,
            config_.weight_decay,
            counted + 1,
            static_cast<float>(static_cast<double>(factor) / loss_scale_.value()),
            config_.seed};
  }

  // Updates behind backward took the gradients as they were. Where the norm exceeds the limit after all, they are done
  // again, from the states of before.
  void redo(const optim::AdamWSettings& clipped, StepWork& work) {
    const plan::Phase phase = progress_.phase(plan::PhaseKind::redo, job_.shape.micro_batches);
    add_work(work, phase, run_phase(phase, {}, clipped));
  }

  // Whether not to wait for the norm is worth the risk of doing the update again. Who forces updates behind backward
  // gets them.
  bool speculates() const {
    if (config_.offload.update == UpdateChoice::behind_backward) return true;
    const plan::ClippingTimes& times = *job_.planned.clipping;
    return (times.speculate + times.redo * clipped_share_).count < times.wait.count;
  }

  // torch.nn.utils.clip_grad_norm_: the factor never exceeds one.
  float clip_factor(double norm) const {
    if (config_.max_grad_norm <= 0) return 1;
    return std::min(1.0f, static_cast<float>(config_.max_grad_norm) / (static_cast<float>(norm) + 1e-6f));
  }

  std::vector<models::MicroBatch> views_of(const StepData& data, int64_t step) const {
    std::vector<models::MicroBatch> views;
    for (const MicroBatchData& batch : data.micro_batches) {
      models::MicroBatch view;
      view.tokens = static_cast<int64_t>(batch.token_ids.size());
      view.token_ids = batch.token_ids;
      view.labels = batch.labels;
      view.positions = batch.positions;
      view.document_starts = batch.document_starts;
      view.loss_scale = data.supervised > 0 ? loss_scale_.value() / static_cast<double>(data.supervised) : 0;
      view.seed = config_.seed;
      view.step = static_cast<uint64_t>(step + 1);
      view.index = views.size();
      views.push_back(view);
    }
    return views;
  }

  void add_work(StepWork& work, const plan::Phase& phase, const exec::PhaseResult& result) {
    const plan::Schedule& schedule = job_.planned.schedule(phase, job_.shape, job_.request);
    const auto lanes = plan::work_of(schedule);
    const auto busy = plan::busy_times(schedule, result.ops);
    for (size_t lane = 0; lane < kLaneCount; ++lane) {
      work.lanes[lane].time += lanes[lane].time;
      work.lanes[lane].bytes += lanes[lane].bytes;
      work.busy[lane] += busy[lane];
    }
    work.foreseen_compute += foreseen_compute(phase);
    work.seconds += result.seconds;
    work.micro_batches += result.loss_sums.size();
  }

  void fill_speed(StepRecord& record, StepWork work, const swap::SwapCounters& before) {
    record.step_seconds = work.seconds;
    record.tokens_per_second = static_cast<double>(record.tokens) / work.seconds;
    // The schedule counts full micro-batches; the step computed on the tokens that were there.
    const double share = static_cast<double>(record.tokens) /
                         static_cast<double>(job_.shape.tokens_max * static_cast<int64_t>(work.micro_batches));
    work.lanes[static_cast<size_t>(Lane::compute)].time.count *= share;
    if (work.foreseen_compute.count > 0)
      paces_.push_back(work.busy[static_cast<size_t>(Lane::compute)].count / (work.foreseen_compute.count * share));
    const plan::Bound bound = rates_.bound_of_step(work.lanes, work.busy, {work.seconds * 1e6});
    record.bound_seconds = bound.time.count / 1e6;
    record.percent_of_bound = 100 * record.bound_seconds / record.step_seconds;
    record.binding_lane = name_of(bound.lane);
    record.device_peak_bytes = executor_->high_water(Tier::device).count;
    record.host_peak_bytes = executor_->high_water(Tier::host).count;
    const swap::SwapCounters after = swap_.counters();
    record.disk_read_bytes = after.read_bytes - before.read_bytes;
    record.disk_write_bytes = after.write_bytes - before.write_bytes;
  }

  // Mean loss per supervised token of the validation rows, with the newest weights.
  double evaluate() {
    flush();
    double sum = 0;
    int64_t supervised = 0;
    for (int64_t batch = 0; batch < job_.steps.validation_batches(*job_.validation, job_.shape.micro_batches);
         ++batch) {
      const StepData data = job_.steps.validation(*job_.validation, batch, job_.shape.micro_batches);
      const std::vector<models::MicroBatch> views = views_of(data, 0);
      const exec::PhaseResult result = run_phase(
          progress_.phase(plan::PhaseKind::evaluate, static_cast<int>(views.size())), views, {}, when_not_finite());
      for (const double each : result.loss_sums) sum += each;
      supervised += data.supervised;
    }
    return sum / static_cast<double>(std::max<int64_t>(supervised, 1));
  }
  void say_validation(double loss, const char* when) {
    if (!std::isfinite(loss))
      errors_.say("warning: a validation row overflows fp16, which ends at 65504; bf16: true does not");
    char text[64];
    std::snprintf(text, sizeof text, "validation loss %.4f ", loss);
    console_.say(std::string(text) + when);
    validation_losses_.push_back(loss);
  }

  // Returns the exit code that a shell expects of a program that a signal ended.
  int stop_after(int64_t step, bool saved, int signal) {
    waiting_.reset();
    if (!saved && has_something_to_save()) save(step);
    if (!options_.trace.empty()) trace_.save(options_.trace);
    const std::vector<fs::path> checkpoints = find_resumable(config_.output_dir);
    console_.say(std::string("stopped by ") + (signal == SIGINT ? "SIGINT" : "SIGTERM") + " after step " +
                 std::to_string(step) + " of " + std::to_string(job_.steps.steps_total()) +
                 "; checkpoint: " + (checkpoints.empty() ? "none" : checkpoints.back().string()));
    if (!checkpoints.empty()) console_.say("to go on, run it again with auto_resume_from_checkpoints=true");
    return 128 + signal;
  }

  // Not while fp16 has skipped every step: a run from the start finds the same again.
  bool has_something_to_save() const { return progress_.has_changed() || job_.resume; }

  CheckpointState state_at(int64_t step) const {
    return {step,
            job_.steps.steps_total(),
            start_seconds_,
            validation_losses_,
            progress_.odd(),
            job_.training->content_hash(),
            loss_scale_.dynamic() ? std::optional(loss_scale_.state()) : std::nullopt};
  }

  bool has_trained_extents() const { return job_.planned.memory.trained_on_disk.count > 0; }

  // Updates that run before their next forward leave this step's states on the drive when the next step ends, whose own
  // updates are still to come. A checkpoint waits for that: done now, it would hold up all updates for itself alone.
  void save_soon(int64_t step) {
    const bool flushes = has_early_ || (job_.validation && due(config_.eval_steps, step));
    if (flushes || !saves_manifests(config_) || !has_trained_extents() || !progress_.has_changed())
      save(step);
    else
      waiting_ = state_at(step);
  }

  fs::path save(int64_t step) {
    flush();
    log_->sync();
    const CheckpointState state = state_at(step);
    if (!progress_.has_changed() && job_.resume) return renew(state);
    if (saves_manifests(config_) && has_trained_extents()) return save_extents(state);
    const fs::path saved = save_copy(*executor_, job_.setup, config_, state,
                                     config_.save_only_model ? CheckpointOf::model : CheckpointOf::model_and_states,
                                     patience_);
    prune_checkpoints(config_.output_dir, config_.save_total_limit);
    return saved;
  }

  // fp16 has skipped every step since the start.
  fs::path renew(const CheckpointState& state) {
    const fs::path from = job_.resume->folder;
    const fs::path saved = renew_checkpoint(from, job_.setup, config_, state, patience_);
    job_.resume->folder = saved;  // what it was made from may go now
    if (has_manifest(saved))
      kept_.renewed(saved, from);
    else
      prune_checkpoints(config_.output_dir, config_.save_total_limit);
    return saved;
  }

  // Nothing is copied: what the manifest names is not written any more.
  fs::path save_extents(const CheckpointState& state) {
    std::vector<swap::ExtentId> extents;
    for (const exec::TrainedExtent& each : executor_->trained_extents(state.odd)) extents.push_back(each.extent);
    if (const Result<void> synced = swap_.sync(); !synced.ok()) throw RunError(synced.error());
    log_->sync();
    const fs::path saved = save_manifest(*executor_, swap_, job_.setup, job_.planned.plan, config_, state, patience_);
    kept_.saved(saved, extents);
    return saved;
  }

  void finish(int64_t total) {
    flush();
    if (!has_something_to_save())
      throw RunError({ErrorCode::invalid_input, "every step overflowed fp16 and was skipped: nothing has been trained",
                      "give a smaller fp16_init_scale, more steps, or bf16: true"});
    if (job_.validation) say_validation(evaluate(), "after training");
    const fs::path saved = save(total);
    if (!has_manifest(saved))
      publish_result(saved, config_.output_dir, patience_);
    else if (progress_.has_changed())
      export_model(*executor_, job_.setup, config_, state_at(total), patience_);
    else
      export_model(saved, job_.setup, config_, patience_);
    if (!options_.trace.empty()) trace_.save(options_.trace);
    forget_if_disturbed(job_, rates_.compute_pace());
    remember_pace(job_, paces_);
    console_.say("result: " + config_.output_dir.string());
  }

  SpacePatience patience_of_run() {
    return patience_of(config_, [this](const std::string& line) { errors_.say(line); });
  }
  swap::SwapOptions swap_options_of_run() const {
    swap::SwapOptions options = swap_options_of(job_);
    options.patience = patience_;
    return options;
  }

  Job& job_;
  const Config& config_;
  const TrainOptions options_;
  const OutputFolder& folder_;
  Console console_{STDOUT_FILENO}, errors_{STDERR_FILENO};
  const SpacePatience patience_ = patience_of_run();
  swap::SwapEngine swap_;
  KeptCheckpoints kept_;
  std::unique_ptr<exec::Executor> executor_;
  Progress progress_;
  LossScale loss_scale_;
  optim::AdamWSettings update_;  // that is pending
  double clipped_share_ = 0;     // of the last steps, the newest counting most
  std::optional<StepLog> log_;   // while steps run
  plan::SeenRates rates_;
  std::map<plan::Phase, Microseconds> foreseen_compute_;
  std::vector<double> paces_;  // of each step, compute's time over what was foreseen
  const bool has_early_ = plan::updates_behind_backward(job_.planned.plan);
  exec::TraceWriter trace_;
  fs::path initial_adapter_;
  std::optional<CheckpointState> waiting_;  // a checkpoint due, of the step before
  std::vector<double> validation_losses_;
  double start_seconds_ = 0;
  const Clock::time_point begin_ = Clock::now();
};

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
  const SpacePatience patience =
      patience_of(job.config, [](const std::string& line) { Console(STDERR_FILENO).say(line); });
  const bool in_swap_files = has_manifest(job.resume->folder);
  prune_checkpoints(job.config.output_dir,
                    in_swap_files ? std::max(checkpoint_sets(job.config), 1) : job.config.save_total_limit);
  if (in_swap_files) {
    export_model(job.resume->folder, job.setup, job.config, patience);
    give_back_unnamed(job.config, job.resume->folder);
  } else {
    publish_result(job.resume->folder, job.config.output_dir, patience);
  }
  std::printf("result: %s\n", job.config.output_dir.c_str());
  return 0;
}

// A signal ended a wait for room: nothing more can be written, and the newest checkpoint is what there is.
int stopped_without_room(const Error& error, const Job& job, int signal) {
  const std::vector<fs::path> checkpoints = find_resumable(job.config.output_dir);
  Console(STDOUT_FILENO)
      .say(std::string("stopped by ") + (signal == SIGINT ? "SIGINT" : "SIGTERM") + " while it waited for room: " +
           error.message + "; checkpoint: " + (checkpoints.empty() ? "none" : checkpoints.back().string()) +
           (checkpoints.empty() ? "" : "\nto go on, run it again with auto_resume_from_checkpoints=true"));
  return 128 + signal;
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
  try {
    if (job.nothing_left()) return publish_finished(job);
    return Trainer(job, options, folder).run();
  } catch (const RunError& failure) {
    if (failure.error().code == ErrorCode::interrupted)
      return stopped_without_room(failure.error(), job, StopRequest::noted());
    throw RunError(with_way_on(failure.error(), job));
  } catch (const fs::filesystem_error& failure) {
    throw RunError(with_way_on(
        {ErrorCode::io, failure.path1().string() + ": " + failure.code().message(), "check the folder and its drive"},
        job));
  }
}

}  // namespace sluice::train
