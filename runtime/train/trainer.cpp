#include "runtime/train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "runtime/core/result.h"
#include "runtime/exec/trace.h"
#include "runtime/plan/report.h"
#include "runtime/train/advice.h"
#include "runtime/train/job.h"
#include "runtime/train/job_rates.h"
#include "runtime/train/machine_file.h"
#include "runtime/train/metrics.h"
#include "runtime/train/plan_diff.h"
#include "runtime/train/tensor_file_writer.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// The trained model between phases: what is pending, and where the newest weights and states are. As in plan::Phase;
// "early" groups are those updated behind backward.
struct Progress {
  bool pending = false, early_pending = false;
  bool states_stored = false, weights_stored = false;
  bool early_states_stored = false, early_weights_stored = false;
  bool odd = false;
  optim::AdamWSettings update;
  double clipped_share = 0;  // of the last steps, the newest counting most
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

class Trainer {
 public:
  Trainer(Job& job, const TrainOptions& options)
      : job_(job), config_(job.config), options_(options), swap_(swap_options(config_)) {
    start_adapter();
    exec::ExecutorOptions executor_options;
    if (config_.device == DeviceKind::emulated) executor_options.h2d = executor_options.d2h = emulated_link(config_);
    executor_ = std::make_unique<exec::Executor>(job_.setup.model, job_.shape, job_.planned, job_.sources, swap_,
                                                 executor_options);
    for (const std::string& warning : swap_.warnings()) std::fprintf(stderr, "note: %s\n", warning.c_str());
  }

  int run() {
    const int64_t first = job_.resume ? job_.resume->step : 0;
    const int64_t total = job_.steps.steps_total();
    progress_.states_stored = progress_.early_states_stored = job_.resume.has_value();
    run_phase({job_.resume ? plan::PhaseKind::restore : plan::PhaseKind::load, job_.shape.micro_batches}, {});
    if (!initial_adapter_.empty()) fs::remove(initial_adapter_);
    write_file(config_.output_dir / "plan.yaml",
               plan::to_yaml(job_.planned.plan, job_.shape) + "io_backend: " + backend_name() + "\n" + predicted());
    StepLog log(config_.output_dir / "trainer_log.jsonl", first);
    if (job_.validation) say_validation(evaluate(), "before training");
    start_seconds_ = seconds_since_launch();
    ProgressLine line(total, options_.quiet, config_.logging_steps);
    for (int64_t step = first; step < total; ++step) {
      const StepRecord record = train_step(step);
      log.append(record);
      line.show(record);
      const bool last = step + 1 == total;
      if (!last && due(config_.save_steps, step + 1)) save(step + 1);
      if (!last && job_.validation && due(config_.eval_steps, step + 1)) say_validation(evaluate(), "at this step");
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
      return std::to_string(job_.planned.memory.peak[static_cast<size_t>(tier)].count);
    };
    return "predicted:\n  step_seconds: " + std::to_string(job_.planned.steady.time.count / 1e6) +
           "\n  device_peak_bytes: " + peak(Tier::device) + "\n  host_peak_bytes: " + peak(Tier::host) +
           "\n  disk_peak_bytes: " + peak(Tier::disk) + "\n";
  }

  // A new adapter starts from a file, like everything else.
  void start_adapter() {
    const auto missing = std::find_if(job_.setup.places.begin(), job_.setup.places.end(),
                                      [](const auto& places) { return places.empty(); });
    if (missing == job_.setup.places.end()) return;
    initial_adapter_ = config_.output_dir / ".initial_adapter.safetensors";
    write_initial_adapter(job_.setup, config_.seed, initial_adapter_);
    job_.setup.adapter_tensors = models::TensorIndex::of_file(initial_adapter_);
    models::GroupSources adapters =
        models::locate_adapter_weights(*job_.setup.adapter_tensors, job_.setup.model.groups);
    for (size_t g = 0; g < adapters.size(); ++g)
      if (!adapters[g].empty()) job_.setup.places[g] = std::move(adapters[g]);
    job_.sources = sources_of(job_.setup, job_.planned.plan.chunk_elements);
  }

  exec::PhaseResult run_phase(const plan::Phase& phase, std::span<const models::MicroBatch> micro_batches,
                              const optim::AdamWSettings& early_update = {}) {
    const plan::Schedule& schedule = job_.planned.schedule(phase, job_.shape, job_.request);
    const double begin_us = std::chrono::duration<double, std::micro>(Clock::now() - begin_).count();
    exec::PhaseResult result = executor_->run(schedule, {micro_batches, progress_.update, early_update});
    if (!options_.trace.empty()) {
      trace_.add("executed", schedule, result.ops, begin_us);
      trace_.add("simulated", schedule,
                 plan::simulate(schedule, job_.planned.layout.buffers(), job_.request.profile).ops, begin_us);
    }
    return result;
  }

  void flush() {
    if (!progress_.pending && !progress_.early_pending) return;
    run_phase(phase_of(plan::PhaseKind::flush, job_.shape.micro_batches), {});
    updated();
  }
  // What was pending has been updated.
  void updated() {
    if (progress_.pending) progress_.states_stored = progress_.weights_stored = true;
    if (progress_.early_pending) progress_.early_states_stored = progress_.early_weights_stored = true;
    progress_.pending = progress_.early_pending = false;
  }
  plan::Phase phase_of(plan::PhaseKind kind, int micro_batches) const {
    const bool updates = kind != plan::PhaseKind::evaluate;
    plan::Phase phase{kind, micro_batches, updates && progress_.pending, progress_.states_stored,
                      progress_.weights_stored};
    phase.early_pending = updates && progress_.early_pending;
    phase.early_states_stored = progress_.early_states_stored;
    phase.early_weights_stored = progress_.early_weights_stored;
    phase.odd = progress_.odd;
    return phase;
  }

  StepRecord train_step(int64_t step) {
    const StepData data = job_.steps.training(*job_.training, step);
    std::vector<models::MicroBatch> micro_batches = views_of(data, step);
    plan::Phase phase = phase_of(plan::PhaseKind::train, static_cast<int>(micro_batches.size()));
    phase.early = has_early_ && (!job_.planned.plan.undoable || speculates());
    const optim::AdamWSettings unclipped = update_of(step, 1);
    const swap::SwapCounters before = swap_.counters();
    exec::PhaseResult result = run_phase(phase, micro_batches, unclipped);
    updated();

    StepRecord record;
    record.step = step + 1;
    for (const double sum : result.loss_sums) record.loss += sum;
    // A step of one-token documents alone predicts nothing: its loss is zero, and so are its gradients.
    record.loss /= static_cast<double>(std::max<int64_t>(data.supervised, 1));
    record.grad_norm = std::sqrt(result.squared_gradient_norm);
    record.learning_rate = job_.learning_rate.at(step);
    for (const models::MicroBatch& batch : micro_batches) record.tokens += batch.tokens;
    if (!std::isfinite(record.grad_norm))
      throw RunError({ErrorCode::io, "the gradient norm of step " + std::to_string(step + 1) + " is not finite",
                      "the last checkpoint is intact; lower learning_rate or check the data of this step"});
    const float factor = clip_factor(record.grad_norm);
    auto work = plan::work_of(job_.planned.schedule(phase, job_.shape, job_.request));
    if (phase.early) finish_early(step, factor, result, work);
    fill_speed(record, work, result, before);

    progress_.pending = true;
    progress_.early_pending = has_early_ && !phase.early;
    progress_.update = update_of(step, factor);
    constexpr double kNewest = 0.25;
    progress_.clipped_share += kNewest * ((factor < 1 ? 1.0 : 0.0) - progress_.clipped_share);
    return record;
  }

  optim::AdamWSettings update_of(int64_t step, float factor) const {
    return {job_.learning_rate.at(step),
            config_.adam_beta1,
            config_.adam_beta2,
            config_.adam_epsilon,
            config_.weight_decay,
            step + 1,
            factor};
  }

  // Updates behind backward took the gradients as they were. Where the norm exceeds the limit after all, they are done
  // again, from the states of before.
  void finish_early(int64_t step, float factor, exec::PhaseResult& result,
                    std::array<plan::LaneWork, kLaneCount>& work) {
    if (job_.planned.plan.undoable) {
      if (factor < 1) {
        plan::Phase redo = phase_of(plan::PhaseKind::redo, job_.shape.micro_batches);
        result.seconds += run_phase(redo, {}, update_of(step, factor)).seconds;
        const auto more = plan::work_of(job_.planned.schedule(redo, job_.shape, job_.request));
        for (size_t lane = 0; lane < kLaneCount; ++lane) work[lane].bytes += more[lane].bytes;
      }
      progress_.odd = !progress_.odd;
    }
    progress_.early_states_stored = progress_.early_weights_stored = true;
  }

  // Whether not to wait for the norm is worth the risk of doing the update again. Who forces updates behind backward
  // gets them.
  bool speculates() {
    if (config_.offload.update == UpdateChoice::behind_backward) return true;
    if (!times_) {
      const auto time_of = [&](const plan::Phase& phase) {
        return plan::simulate(job_.planned.schedule(phase, job_.shape, job_.request), job_.planned.layout.buffers(),
                              job_.request.profile)
            .time.count;
      };
      plan::Phase waits = plan::steady_phase(job_.planned.plan, job_.shape.micro_batches);
      const double speculate = time_of(waits);
      waits.early = false;
      waits.early_pending = true;
      times_ = {speculate, time_of(waits), time_of(plan::redo_phase(job_.shape.micro_batches, false))};
    }
    return times_->speculate + progress_.clipped_share * times_->redo < times_->wait;
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
      view.loss_scale = data.supervised > 0 ? 1.0 / static_cast<double>(data.supervised) : 0;
      view.seed = config_.seed;
      view.step = static_cast<uint64_t>(step + 1);
      view.index = views.size();
      views.push_back(view);
    }
    return views;
  }

  void fill_speed(StepRecord& record, std::array<plan::LaneWork, kLaneCount> work, const exec::PhaseResult& result,
                  const swap::SwapCounters& before) const {
    record.step_seconds = result.seconds;
    record.tokens_per_second = static_cast<double>(record.tokens) / result.seconds;
    // The schedule counts full micro-batches; the step computed on the tokens that were there.
    const double share = static_cast<double>(record.tokens) /
                         static_cast<double>(job_.shape.tokens_max * static_cast<int64_t>(result.loss_sums.size()));
    work[static_cast<size_t>(Lane::compute)].time.count *= share;
    const plan::Bound bound = plan::bound_of(work, job_.request.profile);
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
      const exec::PhaseResult result =
          run_phase(phase_of(plan::PhaseKind::evaluate, static_cast<int>(views.size())), views);
      for (const double each : result.loss_sums) sum += each;
      supervised += data.supervised;
    }
    return sum / static_cast<double>(std::max<int64_t>(supervised, 1));
  }
  void say_validation(double loss, const char* when) {
    std::printf("validation loss %.4f %s\n", loss, when);
    std::fflush(stdout);
    validation_losses_.push_back(loss);
  }

  fs::path save(int64_t step) {
    flush();
    const fs::path saved = save_checkpoint(*executor_, job_.setup, config_,
                                           {step, job_.steps.steps_total(), start_seconds_, validation_losses_,
                                            progress_.odd, job_.training->content_hash()});
    prune_checkpoints(config_.output_dir, config_.save_total_limit);
    return saved;
  }

  void finish(int64_t total) {
    flush();
    if (job_.validation) say_validation(evaluate(), "after training");
    publish_result(save(total), config_.output_dir);
    if (!options_.trace.empty()) trace_.save(options_.trace);
    std::printf("result: %s\n", config_.output_dir.c_str());
  }

  Job& job_;
  const Config& config_;
  const TrainOptions options_;
  swap::SwapEngine swap_;
  std::unique_ptr<exec::Executor> executor_;
  Progress progress_;
  const bool has_early_ = plan::updates_behind_backward(job_.planned.plan);
  struct StepTimes {
    double speculate, wait, redo;
  };
  std::optional<StepTimes> times_;
  exec::TraceWriter trace_;
  fs::path initial_adapter_;
  std::vector<double> validation_losses_;
  double start_seconds_ = 0;
  const Clock::time_point begin_ = Clock::now();
};

plan::Forecast forecast_of(const Job& job) {
  const int64_t steps = job.steps.steps_total() - (job.resume ? job.resume->step : 0);
  return plan::forecast_of(job.planned, job.shape, job.request.profile, steps);
}

std::string plan_text(const Job& job) {
  return plan::to_yaml(job.planned.plan, job.shape) + '\n' +
         plan::memory_table(job.planned.memory, job.shape, job.request.caps) + '\n' +
         plan::forecast_table(forecast_of(job), job.rated_endurance);
}

}  // namespace

int print_plan(const Config& config, const PlanOptions& options) {
  std::optional<plan::Machine> machine;
  if (!options.machine.empty()) machine = read_machine(options.machine);
  const plan::Machine* target = machine ? &*machine : nullptr;
  const Job job = prepare_job(config, Purpose::inspect, target);
  if (options.beside) {
    const Job other = prepare_job(*options.beside, Purpose::inspect, target);
    std::printf("%s", line_diff(plan_text(job), plan_text(other)).c_str());
  } else if (options.json) {
    std::printf("%s\n", plan::to_json(job.planned, job.shape, job.request.caps, forecast_of(job)).c_str());
  } else {
    std::printf("%s%s", plan_text(job).c_str(), to_text(faster_changes(job)).c_str());
  }
  return 0;
}

int run_training(const Config& config, const TrainOptions& options) {
  Job job = prepare_job(config, options.dry_run ? Purpose::inspect : Purpose::run);
  if (options.dry_run) {
    std::printf("%s", plan_text(job).c_str());
    const plan::Phase steady = plan::steady_phase(job.planned.plan, job.shape.micro_batches);
    std::printf(
        "%s",
        plan::to_table(job.planned.schedule(steady, job.shape, job.request), job.planned.layout.buffers()).c_str());
    return 0;
  }
  fs::create_directories(config.output_dir);
  Trainer trainer(job, options);
  return trainer.run();
}

}  // namespace sluice::train
