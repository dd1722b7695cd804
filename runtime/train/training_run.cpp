#include "runtime/train/training_run.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <sstream>
#include <utility>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/core/result.h"
#include "runtime/plan/report.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checkpoint_save.h"
#include "runtime/train/initial_adapter.h"
#include "runtime/train/job_measurements.h"
#include "runtime/train/job_rates.h"
#include "runtime/train/kept_checkpoints.h"
#include "runtime/train/loss_scale.h"
#include "runtime/train/progress.h"
#include "runtime/train/step_meter.h"
#include "runtime/train/swap_files.h"
#include "runtime/train/swap_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

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

swap::SwapOptions swap_options_of(const Job& job, const SpacePatience& patience) {
  swap::SwapOptions options = swap_options(job.config);
  options.file_name = job.swap_place.file_name;
  options.adopts = job.swap_place.adopts();
  options.patience = patience;
  return options;
}

// Who asks the run to stop ends the waiting; calls that take long are told of.
SpacePatience patience_of(const Config& config, RunObserver& observer) {
  SpacePatience patience = SpacePatience::of(config.offload.enospc_timeout);
  patience.say = [&observer](const std::string& line) { observer.note(line); };
  patience.stops = [&observer] { return observer.is_asked_to_stop(); };
  patience.watch = CallWatch::of_run(patience.say);
  return patience;
}

constexpr uint64_t kNotTraining = 0;  // MicroBatch::step

bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

}  // namespace

class TrainingRun::Impl {
 public:
  Impl(Job& job, const OutputFolder& folder, RunObserver& observer)
      : job_(job),
        config_(job.config),
        folder_(folder),
        observer_(observer),
        patience_(patience_of(config_, observer)),
        swap_(swap_options_of(job, patience_)),
        kept_(job, folder, swap_, patience_),
        progress_(job.planned.plan),
        loss_scale_(config_, job.resume ? job.resume->loss_scale : std::nullopt),
        meter_(job),
        steps_done_(job.resume ? job.resume->step : 0) {
    make_base(job_, observer_);
    initial_adapter_ = start_adapter(job_, AdapterValues::initial, config_.output_dir, observer_);
    refuse_too_little_disk();
    executor_ = std::make_unique<exec::Executor>(job_.setup.model, job_.shape, job_.planned, job_.sources, swap_,
                                                 executor_options());
    kept_.extents_created();
    for (const std::string& warning : swap_.warnings()) observer_.note("note: " + warning);
    for (const std::string& note : executor_->notes()) observer_.note("note: " + note);
  }

  int64_t steps_done() const { return steps_done_; }
  int64_t steps_total() const { return job_.data->steps_total(); }

  void load() {
    if (job_.resume) progress_.resumed();
    load_model();
    refuse_lost_source();
    if (!initial_adapter_.empty()) fs::remove(initial_adapter_);
    write_file(config_.output_dir / "plan.yaml",
               plan::to_yaml(job_.planned.plan, job_.shape) + "io_backend: " + backend_name() + "\n" + predicted(),
               patience_);
    log_.emplace(config_.output_dir / "trainer_log.jsonl", steps_done_, patience_);
    if (job_.data->validates()) validate(steps_done_ == 0 ? "before training" : "before going on");
    start_seconds_ = seconds_since_launch();
  }

  StepRecord step() {
    SLUICE_CHECK(log_ && steps_done_ < steps_total(), "a step before load() or after the last one");
    reads_source_ = !progress_.has_all_weights();
    const StepRecord record = train_step(steps_done_);
    if (reads_source_) refuse_lost_source();
    folder_.check_in_place();
    log_->append(record);
    ++steps_done_;
    observer_.step_ended(record);
    if (waiting_) save_extents(*std::exchange(waiting_, std::nullopt));
    if (steps_done_ == steps_total()) return record;
    if (due(config_.save_steps, steps_done_) && has_something_to_save()) save_soon(steps_done_);
    if (job_.data->validates() && due(config_.eval_steps, steps_done_)) validate("at this step");
    return record;
  }

  double evaluate() {
    SLUICE_CHECK(log_ && job_.data->validates(), "evaluate() before load(), or of a job without validation rows");
    return validation_loss();
  }

  double evaluate(const NextBatch& next) {
    SLUICE_CHECK(log_, "evaluate() before load()");
    return mean_loss(next);
  }

  void read_weights(int group, const exec::WeightsSink& sink) {
    SLUICE_CHECK(log_, "weights are read before load()");
    flush();
    executor_->read_weights(group, progress_.odd(), sink);
  }
  void change(int group, int64_t first, int64_t last, const exec::WeightsChange& weights,
              const exec::StatesChange& states) {
    SLUICE_CHECK(has_changed(), "weights are changed before a step");
    flush();
    kept_.before_writing();
    executor_->change(group, progress_.odd(), first, last, weights, states);
    saved_step_.reset();
  }
  bool has_changed() const { return log_ && progress_.has_changed(); }

  std::optional<fs::path> save() {
    SLUICE_CHECK(log_, "a checkpoint before load()");
    waiting_.reset();
    if (!has_something_to_save()) return std::nullopt;
    return save_at(steps_done_);
  }

  std::optional<fs::path> stop() {
    save();
    const std::vector<fs::path> checkpoints = find_resumable(config_.output_dir);
    return checkpoints.empty() ? std::nullopt : std::optional(checkpoints.back());
  }

  void finish() {
    SLUICE_CHECK(log_ && steps_done_ == steps_total(), "finish() before the last step");
    flush();
    if (!progress_.has_changed() && !job_.resume)
      throw RunError({ErrorCode::invalid_input, "every step overflowed fp16 and was skipped: nothing has been trained",
                      "give a smaller fp16_init_scale, more steps, or bf16: true"});
    if (job_.data->validates()) validate("after training");
    const fs::path saved = has_something_to_save() ? save_at(steps_done_) : job_.resume->folder;
    if (!has_manifest(saved))
      publish_result(saved, config_.output_dir, patience_);
    else if (progress_.has_changed())
      export_model(*executor_, job_.setup, config_, state_at(steps_done_), patience_, observer_);
    else
      export_model(saved, job_.setup, config_, patience_, observer_);
    forget_if_disturbed(job_, meter_.compute_pace());
    remember_pace(job_, meter_.paces());
  }

 private:
  exec::ExecutorOptions executor_options() const {
    exec::ExecutorOptions options;
    if (config_.device == DeviceKind::emulated) options.h2d = options.d2h = emulated_link(config_);
    if (job_.gpu)
      options.make_device = [&gpu = *job_.gpu](Bytes memory, exec::EventQueue& events, const exec::PhaseClock& clock) {
        return gpu.make_device(memory, events, clock);
      };
    options.watchdog.say = patience_.say;
    options.places = kept_.places();
    return options;
  }

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
    exec::PhaseInputs inputs{micro_batches, update_, early_update, when_not_finite};
    if (phase.kind == plan::PhaseKind::train)
      inputs.op_ended = [&, ended = 0.0](plan::OpId) mutable {
        observer_.step_advanced(++ended / static_cast<double>(schedule.ops.size()));
      };
    exec::PhaseResult result = executor_->run(schedule, inputs);
    observer_.phase_ended({phase, schedule, result, begin_us});
    return result;
  }

  void load_model() {
    const plan::Phase phase{job_.resume ? plan::PhaseKind::restore : plan::PhaseKind::load, job_.shape.micro_batches};
    const plan::Schedule& schedule = job_.planned.schedule(phase, job_.shape, job_.request);
    const auto read_by = [&](const plan::Op& op) { return op.lane == Lane::read ? op.bytes : 0; };
    int64_t bytes = 0;
    for (const plan::Op& op : schedule.ops) bytes += read_by(op);
    Work work(observer_, job_.resume ? "loading " + job_.resume->folder.filename().string() : "loading the model",
              bytes, WorkUnit::bytes);
    exec::PhaseInputs inputs;
    inputs.restores_in_place = true;
    inputs.op_ended = [&](plan::OpId op) { work.add(read_by(schedule.ops[static_cast<size_t>(op)])); };
    const double begin_us = std::chrono::duration<double, std::micro>(Clock::now() - begin_).count();
    const exec::PhaseResult result = executor_->run(schedule, inputs);
    observer_.phase_ended({phase, schedule, result, begin_us});
  }

  // fp16 may overflow: that costs a step, or a validation loss, not the run.
  exec::WhenNotFinite when_not_finite() const {
    return loss_scale_.dynamic() ? exec::WhenNotFinite::is_reported : exec::WhenNotFinite::fails;
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

  // Another job may write over a checkpoint of its own as soon as that is no longer there.
  void refuse_lost_source() const {
    if (!reads_anothers_) return;
    const fs::path& from = job_.resume->folder;
    if (job_.resume->found->stays() && !is_void(from)) return;
    throw RunError({ErrorCode::io,
                    from.string() + " was removed or replaced while this run still read from it: what was read may be "
                                    "another step's",
                    "resume from a copy of the checkpoint's model, or from one that its own job keeps"});
  }
  bool is_own(const fs::path& checkpoint) const {
    std::error_code failed;
    return fs::equivalent(fs::absolute(checkpoint).parent_path(), config_.output_dir, failed);
  }

  void flush() {
    if (!progress_.has_pending()) return;
    kept_.before_writing();
    run_phase(progress_.phase(plan::PhaseKind::flush, job_.shape.micro_batches), {});
    progress_.updated();
  }

  StepRecord train_step(int64_t step) {
    const StepData data = job_.data->training(step);
    kept_.before_writing();
    std::vector<models::MicroBatch> micro_batches = views_of(data, static_cast<uint64_t>(step + 1));
    const bool early = has_early_ && (!job_.planned.plan.undoable || speculates());
    const plan::Phase phase = progress_.step(static_cast<int>(micro_batches.size()), early);
    const optim::AdamWSettings unclipped = update_of(step, 1);
    meter_.begin(swap_.counters());
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
    meter_.add(phase, result);
    const float factor = clip_factor(record.grad_norm);
    const optim::AdamWSettings clipped = update_of(step, factor);
    record.skipped = overflowed(step + 1, result);
    if (!record.skipped && early && job_.planned.plan.undoable && factor < 1) redo(clipped);
    meter_.fill(record, *executor_, swap_.counters());
    // In a skipped step updates behind backward wrote the second set, which stays the older one, and what waits for the
    // next step is never applied.
    if (record.skipped) return record;

    progress_.stepped(early);
    update_ = clipped;
    constexpr double kNewest = 0.25;
    clipped_share_ += kNewest * ((factor < 1 ? 1.0 : 0.0) - clipped_share_);
    return record;
  }

  // Where that ends the run, nothing of the step before has been lost yet: its checkpoint may be due.
  bool overflowed(int64_t step, const exec::PhaseResult& result) {
    try {
      return loss_scale_.judge(step, {result.squared_gradient_norm, result.bad_output, result.bad_gradient})
          .has_value();
    } catch (const RunError&) {
      if (reads_source_) refuse_lost_source();
      if (waiting_) save_extents(*std::exchange(waiting_, std::nullopt));
      throw;
    }
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
  void redo(const optim::AdamWSettings& clipped) {
    const plan::Phase phase = progress_.phase(plan::PhaseKind::redo, job_.shape.micro_batches);
    meter_.add(phase, run_phase(phase, {}, clipped));
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

  // `step`: MicroBatch::step.
  std::vector<models::MicroBatch> views_of(const StepData& data, uint64_t step) const {
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
      view.step = step;
      view.index = views.size();
      view.loss = job_.loss;
      views.push_back(view);
    }
    return views;
  }

  // With the newest weights.
  double mean_loss(const NextBatch& next) {
    flush();
    double sum = 0;
    int64_t supervised = 0;
    while (const std::optional<StepData> data = next()) {
      const std::vector<models::MicroBatch> views = views_of(*data, kNotTraining);
      const exec::PhaseResult result = run_phase(
          progress_.phase(plan::PhaseKind::evaluate, static_cast<int>(views.size())), views, {}, when_not_finite());
      for (const double each : result.loss_sums) sum += each;
      supervised += data->supervised;
    }
    return sum / static_cast<double>(std::max<int64_t>(supervised, 1));
  }
  double validation_loss() {
    const int64_t batches = job_.data->validation_batches(job_.shape.micro_batches);
    return mean_loss([&, batch = int64_t{0}]() mutable -> std::optional<StepData> {
      if (batch == batches) return std::nullopt;
      return job_.data->validation(batch++, job_.shape.micro_batches);
    });
  }
  void validate(std::string_view when) {
    const double loss = validation_loss();
    validation_losses_.push_back(loss);
    observer_.validated({loss, steps_done_, when});
  }

  // Not while fp16 has skipped every step: a run from where this one began finds the same again.
  bool has_something_to_save() const { return progress_.has_changed() || (job_.resume && is_own(job_.resume->folder)); }

  CheckpointState state_at(int64_t step) const {
    return {step,
            job_.data->steps_total(),
            start_seconds_,
            validation_losses_,
            progress_.odd(),
            job_.data->content_hash(),
            loss_scale_.dynamic() ? std::optional(loss_scale_.state()) : std::nullopt};
  }

  bool has_trained_extents() const { return job_.planned.memory.trained_on_disk.count > 0; }

  // Updates that run before their next forward leave this step's states on the drive when the next step ends, whose own
  // updates are still to come. A checkpoint waits for that: done now, it would hold up all updates for itself alone.
  // What is updated behind backward has its next update by then, which only a second set keeps apart.
  void save_soon(int64_t step) {
    const bool overwrites = has_early_ && !job_.planned.plan.undoable;
    const bool flushes = overwrites || (job_.data->validates() && due(config_.eval_steps, step));
    if (flushes || !saves_manifests(config_) || !has_trained_extents() || !progress_.has_changed())
      save_at(step);
    else
      waiting_ = state_at(step);
  }

  fs::path save_at(int64_t step) {
    if (saved_step_ == step) return saved_;
    flush();
    folder_.check_in_place();
    log_->sync();
    const CheckpointState state = state_at(step);
    if (!progress_.has_changed()) return job_.resume->step == step ? job_.resume->folder : renew(state);
    if (saves_manifests(config_) && has_trained_extents()) return save_extents(state);
    const fs::path saved =
        save_copy(*executor_, job_.setup, config_, state,
                  config_.save_only_model ? CheckpointOf::model : CheckpointOf::model_and_states, patience_, observer_);
    kept_.copied(saved);
    return written(saved, state.step);
  }

  // fp16 has skipped every step since the start.
  fs::path renew(const CheckpointState& state) {
    const fs::path from = job_.resume->folder;
    const fs::path saved = renew_checkpoint(from, job_.setup, config_, state, patience_);
    job_.resume->folder = saved;  // what it was made from may go now
    if (has_manifest(saved))
      kept_.renewed(saved, from);
    else
      kept_.copied(saved);
    return written(saved, state.step);
  }

  // Nothing is copied: what the manifest names is not written any more.
  fs::path save_extents(const CheckpointState& state) {
    folder_.check_in_place();
    std::vector<swap::ExtentId> extents;
    for (const exec::TrainedExtent& each : executor_->trained_extents(state.odd)) extents.push_back(each.extent);
    if (const Result<void> synced = swap_.sync(); !synced.ok()) throw RunError(synced.error());
    log_->sync();
    kept_.saving(config_.output_dir / checkpoint_name(state.step), extents);
    const fs::path saved = in_the_folder(
        [&] { return save_manifest(*executor_, swap_, job_.setup, job_.planned.plan, config_, state, patience_); });
    kept_.saved();
    return written(saved, state.step);
  }

  // What goes wrong because the folder has gone is said as that.
  template <class Act>
  auto in_the_folder(const Act& act) -> decltype(act()) {
    try {
      return act();
    } catch (const RunError&) {
      folder_.check_in_place();
      throw;
    }
  }

  fs::path written(const fs::path& folder, int64_t step) {
    saved_ = folder;
    saved_step_ = step;
    observer_.checkpoint_written(folder, step);
    return folder;
  }

  Job& job_;
  const Config& config_;
  const OutputFolder& folder_;
  RunObserver& observer_;
  const SpacePatience patience_;
  swap::SwapEngine swap_;
  KeptCheckpoints kept_;
  std::unique_ptr<exec::Executor> executor_;
  Progress progress_;
  LossScale loss_scale_;
  optim::AdamWSettings update_;  // that is pending
  double clipped_share_ = 0;     // of the last steps, the newest counting most
  std::optional<StepLog> log_;   // once loaded
  StepMeter meter_;
  // Resumed from bytes in another job's swap files.
  const bool reads_anothers_ = job_.resume && job_.resume->in_swap_files && !is_own(job_.resume->folder);
  bool reads_source_ = true;  // this step, some weights
  const bool has_early_ = plan::updates_behind_backward(job_.planned.plan);
  fs::path initial_adapter_;
  int64_t steps_done_;
  std::optional<CheckpointState> waiting_;  // a checkpoint due, of the step before
  fs::path saved_;                          // the newest of this run
  std::optional<int64_t> saved_step_;       // its step
  std::vector<double> validation_losses_;
  double start_seconds_ = 0;
  const Clock::time_point begin_ = Clock::now();
};

TrainingRun::TrainingRun(Job& job, const OutputFolder& folder, RunObserver& observer)
    : impl_(std::make_unique<Impl>(job, folder, observer)) {}
TrainingRun::~TrainingRun() = default;

void TrainingRun::load() { impl_->load(); }
int64_t TrainingRun::steps_done() const { return impl_->steps_done(); }
int64_t TrainingRun::steps_total() const { return impl_->steps_total(); }
StepRecord TrainingRun::step() { return impl_->step(); }
double TrainingRun::evaluate() { return impl_->evaluate(); }
double TrainingRun::evaluate(const NextBatch& next) { return impl_->evaluate(next); }
void TrainingRun::read_weights(int group, const exec::WeightsSink& sink) { impl_->read_weights(group, sink); }
void TrainingRun::change(int group, int64_t first, int64_t last, const exec::WeightsChange& weights,
                         const exec::StatesChange& states) {
  impl_->change(group, first, last, weights, states);
}
bool TrainingRun::has_changed() const { return impl_->has_changed(); }
std::optional<fs::path> TrainingRun::save() { return impl_->save(); }
void TrainingRun::finish() { impl_->finish(); }
std::optional<fs::path> TrainingRun::stop() { return impl_->stop(); }

void publish_finished(const Job& job, RunObserver& observer) {
  const SpacePatience patience = patience_of(job.config, observer);
  const fs::path& from = job.resume->folder;
  const bool in_swap_files = has_manifest(from);
  prune_checkpoints(job.config, in_swap_files ? std::max(checkpoint_sets(job.config), 1) : job.config.save_total_limit,
                    patience);
  if (in_swap_files) {
    export_model(from, job.setup, job.config, patience);
    give_back_unnamed(job.config, from);
  } else {
    publish_result(from, job.config.output_dir, patience);
  }
}

}  // namespace sluice::train
