#include <malloc.h>
#include <sluice/trainer.h>
#include <sluice/version.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <exception>
#include <optional>
#include <utility>

#include "runtime/core/console.h"
#include "runtime/embed/own_loss.h"
#include "runtime/embed/parameters.h"
#include "runtime/embed/prepared_job.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/job_text.h"
#include "runtime/train/open_files.h"
#include "runtime/train/output_folder.h"
#include "runtime/train/training_run.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using embed::translated;

Step step_of(const train::StepRecord& record) {
  return {record.step,
          record.loss,
          record.grad_norm,
          record.learning_rate,
          record.tokens,
          record.step_seconds,
          record.tokens_per_second,
          record.bound_seconds,
          record.percent_of_bound,
          std::string(record.binding_lane),
          record.device_peak_bytes,
          record.host_peak_bytes,
          record.disk_read_bytes,
          record.disk_write_bytes,
          record.skipped};
}

// As trainer_entry.cpp does for the binary: LibTorch frees and takes the same few large blocks in every layer.
void keep_freed_blocks() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

}  // namespace

const char* library_version() { return SLUICE_VERSION; }

int64_t Parameter::elements() const {
  int64_t count = 1;
  for (const int64_t each : shape) count *= each;
  return count;
}

// What happens inside a call of the run is told once that call is whole: a callback may then throw, and call back.
class Trainer::Impl : private train::RunObserver {
 public:
  Impl(const Job& job, Callbacks callbacks)
      : source_(job),
        callbacks_(std::move(callbacks)),
        config_(embed::config_of(source_)),
        folder_(config_.output_dir) {
    keep_freed_blocks();
    for (const std::string& each : config_.notes) note("note: " + each);
    folder_.lock_if_there();
    train::restore_replaced_checkpoints(config_.output_dir);
    job_ = train::prepare_job(config_, train::Purpose::run, nullptr, nobody(),
                              {embed::data_of(source_), source_.loss ? &loss_ : nullptr});
    train::allow_open_files(2 * static_cast<int64_t>(job_.sources.files.size()));
    folder_.make_and_lock();
    if (job_.nothing_left()) return;
    plan_ = embed::plan_of(job_);
    train::with_way_on(job_, [&] {
      run_.emplace(job_, folder_, static_cast<train::RunObserver&>(*this));
      run_->load();
    });
  }

  bool is_in_its_process() const { return getpid() == process_; }
  const Plan& plan() const { return plan_; }
  const fs::path& output_dir() const { return config_.output_dir; }
  int64_t steps_done() const { return run_ ? run_->steps_done() : job_.resume->step; }
  int64_t steps_total() const { return job_.data->steps_total(); }
  void request_stop() noexcept { stop_asked_ = true; }

  Ended run() {
    try {
      tell();
      while (steps_done() < steps_total()) {
        step();
        if (steps_done() < steps_total() && (stop_asked_ || (callbacks_.should_stop && callbacks_.should_stop()))) {
          stop();
          stop_asked_ = false;
          return Ended::stopped;
        }
      }
      finish();
    } catch (...) {
      if (gave_up_waiting_) {
        note("note: stopped while it waited for room: " + failure_);
        return Ended::stopped;
      }
      // Of the program's own, or a batch that is none: what was trained is kept. A run that failed has its checkpoint.
      if (!failed_ && !finished_) stop_quietly();
      throw;
    }
    return Ended::finished;
  }

  Step step() {
    refuse_after_finish();
    if (steps_done() == steps_total()) throw JobError("a step after the last one\n  fix: ask ended() before step()");
    const train::StepRecord record = acting([&] { return run_->step(); });
    tell();
    return step_of(record);
  }

  double evaluate() {
    if (!job_.data->validates())
      throw JobError("the job has no validation rows\n  fix: set val_set_size, or give evaluate() data");
    return acting([&] { return has_run().evaluate(); });
  }

  double evaluate(const DataSource& data) {
    train::OwnLimits limits(config_, job_.setup.model.vocabulary);
    limits.keep_to(job_.batch.document_max, job_.batch.tokens_max, job_.batch.micro_batches);
    const train::OwnSource source = embed::source_of(data, limits);
    return acting([&] {
      return has_run().evaluate([&, step = int64_t{0}]() mutable { return read_if_any(source, step++, limits); });
    });
  }

  std::optional<fs::path> save() {
    refuse_after_finish();
    const std::optional<fs::path> folder = acting([&] { return has_run().save(); });
    tell();
    return folder;
  }

  std::optional<fs::path> stop() {
    if (finished_ || !run_) return std::nullopt;
    const std::optional<fs::path> folder = acting([&] { return run_->stop(); });
    tell();
    return folder;
  }

  void finish() {
    if (finished_) return;
    if (steps_done() != steps_total())
      throw JobError("finish() after step " + std::to_string(steps_done()) + " of " + std::to_string(steps_total()) +
                     "\n  fix: train on, or call stop(), which leaves a checkpoint");
    acting([&] {
      if (run_)
        run_->finish();
      else
        train::publish_finished(job_, *this);
    });
    finished_ = true;
    tell();
  }

  std::vector<Parameter> parameters() const { return embed::parameters_of(job_); }
  void read_parameter(const std::string& name, std::span<float> values) {
    acting([&] { embed::read_parameter(job_, run_ ? &*run_ : nullptr, name, values); });
  }
  void write_parameter(const std::string& name, std::span<const float> values) {
    refuse_after_finish();
    acting([&] { embed::write_parameter(job_, run_ ? &*run_ : nullptr, name, values); });
  }
  std::optional<ParameterView> view_parameter(const std::string& name) {
    return acting([&] { return embed::view_parameter(job_, run_ ? &*run_ : nullptr, name); });
  }

 private:
  void step_ended(const train::StepRecord& record) override {
    events_.push_back([this, step = step_of(record)] {
      if (callbacks_.step_ended) callbacks_.step_ended(step);
    });
  }
  void checkpoint_written(const fs::path& folder, int64_t step) override {
    events_.push_back([this, checkpoint = Checkpoint{folder, step}] {
      if (callbacks_.checkpoint_written) callbacks_.checkpoint_written(checkpoint);
    });
  }
  void validated(const train::Validation& validation) override {
    events_.push_back([this, validated = Validated{validation.loss, validation.step}] {
      if (callbacks_.validated) callbacks_.validated(validated);
    });
  }
  void note(const std::string& line) override {
    if (callbacks_.note)
      callbacks_.note(line);
    else
      errors_.say(line);
  }

  void tell() {
    while (!events_.empty()) {
      const std::function<void()> event = std::move(events_.front());
      events_.pop_front();
      event();
    }
  }

  bool is_asked_to_stop() const override {
    return stop_asked_ || (callbacks_.ends_waiting && callbacks_.ends_waiting());
  }

  // A call of the run: where it fails, nothing may follow.
  template <class Act>
  auto acting(const Act& act) -> decltype(act()) {
    if (failed_) throw TrainingError(failure_);
    return translated([&] {
      try {
        return train::with_way_on(job_, act);
      } catch (const RunError& error) {
        failed_ = true;
        gave_up_waiting_ = error.error().code == ErrorCode::interrupted;
        failure_ = error.what();
        if (loss_.thrown()) std::rethrow_exception(loss_.thrown());
        throw;
      } catch (const embed::ThrownBySource& thrown) {
        std::rethrow_exception(thrown.exception);
      }
    });
  }

  train::TrainingRun& has_run() {
    if (!run_) throw JobError("nothing is left to train, and the model was not loaded\n  fix: finish() publishes it");
    return *run_;
  }

  void refuse_after_finish() const {
    if (finished_) throw JobError("the training has been finished\n  fix: start another Trainer for more steps");
  }

  static std::optional<train::StepData> read_if_any(const train::OwnSource& source, int64_t step,
                                                    const train::OwnLimits& limits) {
    bool any = false;
    const train::OwnSource noticed = [&](int64_t at, int64_t index, train::OwnBatch& batch) {
      const bool filled = source(at, index, batch);
      any |= filled;
      return filled;
    };
    try {
      return train::read_own_step(noticed, step, limits);
    } catch (const SetupError&) {
      if (any) throw;
      return std::nullopt;  // it has none for this step
    }
  }

  // Another exception is on its way: that one counts.
  void stop_quietly() noexcept {
    try {
      events_.clear();
      stop();
    } catch (const std::exception& error) {
      note(std::string("note: no checkpoint was written, or told of: ") + error.what());
    } catch (...) {
      note("note: no checkpoint was written, or told of");
    }
  }

  const Job source_;
  embed::OwnLoss loss_{source_.loss, source_.loss_place};
  const Callbacks callbacks_;
  Console errors_{STDERR_FILENO};
  const pid_t process_ = getpid();
  const train::Config config_;
  std::atomic<bool> stop_asked_ = false;  // asked for by threads of run_
  train::OutputFolder folder_;
  train::Job job_;
  Plan plan_;
  std::optional<train::TrainingRun> run_;  // none where nothing is left to train
  std::deque<std::function<void()>> events_;
  bool failed_ = false, gave_up_waiting_ = false, finished_ = false;
  std::string failure_;
};

Trainer::Trainer(const Job& job, Callbacks callbacks)
    : impl_(translated([&] { return std::make_unique<Impl>(job, std::move(callbacks)); })) {}
Trainer::~Trainer() { close(); }
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&& other) noexcept {
  close();
  impl_ = std::move(other.impl_);
  return *this;
}

Trainer::Impl& Trainer::open() const {
  if (!impl_) throw JobError("the Trainer has been closed\n  fix: make another; a job goes on from its checkpoints");
  if (!impl_->is_in_its_process())
    throw JobError(
        "the Trainer belongs to the process that this one was forked from\n  fix: use it there, or make one here");
  return *impl_;
}

const Plan& Trainer::plan() const { return open().plan(); }
const fs::path& Trainer::output_dir() const { return open().output_dir(); }
int64_t Trainer::steps_done() const { return open().steps_done(); }
int64_t Trainer::steps_total() const { return open().steps_total(); }
Ended Trainer::run() { return open().run(); }
Step Trainer::step() { return open().step(); }
double Trainer::evaluate() { return open().evaluate(); }
double Trainer::evaluate(const DataSource& data) { return open().evaluate(data); }
std::optional<fs::path> Trainer::save() { return open().save(); }
void Trainer::finish() { open().finish(); }
std::optional<fs::path> Trainer::stop() { return open().stop(); }
std::vector<Parameter> Trainer::parameters() const { return open().parameters(); }
void Trainer::read_parameter(const std::string& name, std::span<float> values) { open().read_parameter(name, values); }
void Trainer::write_parameter(const std::string& name, std::span<const float> values) {
  open().write_parameter(name, values);
}
std::optional<ParameterView> Trainer::view_parameter(const std::string& name) { return open().view_parameter(name); }

void Trainer::request_stop() noexcept {
  if (impl_) impl_->request_stop();
}

void Trainer::close() noexcept {
  // A forked child has none of the threads that would have to end.
  if (impl_ && !impl_->is_in_its_process())
    static_cast<void>(impl_.release());
  else
    impl_.reset();
}

}  // namespace sluice
