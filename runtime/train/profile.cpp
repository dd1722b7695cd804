#include "runtime/train/profile.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/core/console.h"
#include "runtime/core/processor.h"
#include "runtime/core/result.h"
#include "runtime/exec/machine_probe.h"
#include "runtime/exec/trace.h"
#include "runtime/train/cpu_energy.h"
#include "runtime/train/drive_endurance.h"
#include "runtime/train/job.h"
#include "runtime/train/open_files.h"
#include "runtime/train/profile_result.h"
#include "runtime/train/report.h"
#include "runtime/train/run_data.h"
#include "runtime/train/scratch_folder.h"
#include "runtime/train/stop_request.h"
#include "runtime/train/study_run.h"
#include "runtime/train/training_run.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// The first step has nothing to update, and the second nothing stored.
constexpr int64_t kWarmUp = kProfileWarmUpSteps;
constexpr size_t kSpansMost = 3000;
constexpr size_t kMemoryParts = 240;

// The job without what it would leave or go on from. The original's steps are set aside: these are fewer.
Config without_traces(Config config, const fs::path& scratch, int64_t steps) {
  if (config.offload.nvme_path == std::vector<fs::path>{config.output_dir}) config.offload.nvme_path = {scratch};
  config.output_dir = scratch;
  config.max_steps = steps;
  config.save_steps = config.saves_per_epoch = 0;
  config.eval_steps = config.evals_per_epoch = 0;
  config.resume_from_checkpoint.clear();
  config.auto_resume_from_checkpoints = false;
  return config;
}

// VmHWM of /proc/self/status.
Bytes resident_peak() {
  std::ifstream lines("/proc/self/status");
  for (std::string name; lines >> name; lines.ignore(1 << 10, '\n'))
    if (int64_t kibibytes = 0; name == "VmHWM:" && lines >> kibibytes) return KiB(kibibytes);
  return {};
}

// Of the job's own output_dir: what a run there has logged. Empty where there is none.
std::vector<std::string> log_of(const fs::path& output_dir) {
  std::vector<std::string> kept;
  std::ifstream stream(output_dir / "trainer_log.jsonl");
  for (std::string line; std::getline(stream, line) && !stream.eof();)
    if (step_of_line(line)) kept.push_back(line);
  return kept;
}

class Recorder : public RunObserver {
 public:
  Recorder(const Job& job, const ProfileOptions& options) : job_(job), options_(options) {}

  void phase_ended(const PhaseEnd& end) override {
    if (!options_.trace.empty()) {
      trace_.add("executed", end.schedule, end.result.ops, end.begin_us);
      trace_.add("simulated", end.schedule, simulated(end.schedule).ops, end.begin_us);
    }
    if (end.phase.kind != plan::PhaseKind::train && end.phase.kind != plan::PhaseKind::redo) return;
    step_ += plan::account_of(end.schedule, end.result.ops, job_.shape);
    if (end.phase.kind == plan::PhaseKind::train) {
      measured_ = &end.schedule;
      ops_ = end.result.ops;
    }
  }
  void step_ended(const StepRecord& record) override {
    plan::StepAccount account = std::exchange(step_, {});
    if (record.step <= kWarmUp) return;
    // The schedule counts full micro-batches; the step computed on the tokens that were there.
    const double share =
        static_cast<double>(record.tokens) / static_cast<double>(job_.shape.tokens_max * job_.shape.micro_batches);
    constexpr auto kCompute = static_cast<size_t>(Lane::compute);
    account.lanes[kCompute].flops *= share;
    for (auto& block : account.blocks) block[kCompute].flops *= share;
    steps_.push_back({record, std::move(account)});
  }
  bool is_asked_to_stop() const override { return StopRequest::noted() != 0; }
  void note(const std::string& line) override { errors_.say(line); }

  void fill(Profile& profile) {
    profile.steps = std::move(steps_);
    profile.measured = picture_of(*measured_, ops_);
    profile.simulated = picture_of(*measured_, simulated(*measured_).ops);
  }
  void save_trace() const {
    if (!options_.trace.empty()) trace_.save(options_.trace);
  }

 private:
  plan::Simulation simulated(const plan::Schedule& schedule) const {
    return plan::simulate(schedule, job_.planned.layout.buffers(), job_.request.profile);
  }
  StepPicture picture_of(const plan::Schedule& schedule, const std::vector<plan::Slice>& ops) const {
    StepPicture picture;
    picture.timeline = plan::timeline_of(schedule, ops, job_.shape, kSpansMost);
    picture.memory = plan::live_memory(schedule, ops, job_.planned.layout.buffers(), kMemoryParts);
    for (const plan::Slice& slice : ops) picture.time = std::max(picture.time, slice.end);
    return picture;
  }

  const Job& job_;
  const ProfileOptions& options_;
  Console errors_{STDERR_FILENO};
  plan::StepAccount step_;
  std::vector<ProfiledStep> steps_;
  const plan::Schedule* measured_ = nullptr;  // of the last step, with what it ran as
  std::vector<plan::Slice> ops_;
  exec::TraceWriter trace_;
};

// Between its making and `read`.
class Energy {
 public:
  explicit Energy(const exec::Gpu* gpu) : gpu_(gpu), gpu_before_(gpu ? gpu->joules() : std::nullopt) {}

  void step_ended() { cpu_joules_ = cpu_.joules(); }
  EnergyUse gpu() const {
    if (gpu_ == nullptr) return {std::nullopt, "no GPU computes"};
    const std::optional<double> now = gpu_->joules();
    if (!now || !gpu_before_) return {std::nullopt, "the driver's NVML does not count this GPU's energy"};
    return {*now - *gpu_before_, ""};
  }
  EnergyUse cpu() const {
    return cpu_.why_not().empty() ? EnergyUse{cpu_joules_, ""} : EnergyUse{std::nullopt, cpu_.why_not()};
  }

 private:
  const exec::Gpu* gpu_;
  std::optional<double> gpu_before_;
  CpuEnergy cpu_;
  double cpu_joules_ = 0;
};

// The study that this is a cell of may be killed at any time, before this is called too.
void end_with_parent() {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  const char* study = std::getenv(kEndsWithParent);
  if (study != nullptr && std::atoll(study) != getppid()) throw SetupError("the study that asked for this is gone", "");
}

// Returns the signal that stopped it, else 0.
int run_steps(Job& job, const OutputFolder& folder, Recorder& recorder, Profile& profile) {
  TrainingRun run(job, folder, recorder);
  run.load();
  const StopRequest stop(StopRequest::Keeps::nothing);
  std::optional<Energy> energy;
  while (!run.ended()) {
    if (run.steps_done() == kWarmUp) energy.emplace(job.gpu.get());
    run.step();
    if (energy) energy->step_ended();
    if (stop.signal() != 0) return stop.signal();
  }
  profile.gpu = energy->gpu();
  profile.cpu = energy->cpu();
  return 0;
}

// The job's data, of which a profile measures training alone.
class WithoutValidation final : public RunData {
 public:
  explicit WithoutValidation(std::unique_ptr<RunData> data) : data_(std::move(data)) {}

  int64_t steps_total() const override { return data_->steps_total(); }
  int64_t micro_batches_max() const override { return data_->micro_batches_max(); }
  int64_t tokens_max(int64_t micro_batch_size) const override { return data_->tokens_max(micro_batch_size); }
  int64_t longest_document() const override { return data_->longest_document(); }
  const std::string& content_hash() const override { return data_->content_hash(); }
  StepData training(int64_t step) override { return data_->training(step); }
  bool validates() const override { return false; }
  int64_t validation_batches(int64_t) const override { return 0; }
  StepData validation(int64_t, int64_t) override { SLUICE_CHECK(false, "a profile validates nothing"); }

 private:
  std::unique_ptr<RunData> data_;
};

}  // namespace

int run_profile(const Config& config, const ProfileOptions& options) {
  if (options.ends_with_parent) end_with_parent();
  if (!options.report.empty()) check_report();
  const IgnoredSignals ignored;
  const ScratchFolder scratch(config.output_dir);
  Job job = prepare_job(without_traces(config, scratch.path(), kWarmUp + options.steps), Purpose::run);
  job.rated_endurance = rated_endurance_of(config.offload.nvme_path);
  allow_open_files(2 * static_cast<int64_t>(job.sources.files.size()));
  Profile profile;
  profile.host = processor_name();
  profile.device = job.gpu                                 ? job.gpu->name()
                   : config.device == DeviceKind::emulated ? "an emulated device"
                                                           : profile.host;
  profile.warm_up = kWarmUp;
  Config whole = config;
  profile.job_steps = open_datasets(whole, job.setup.model.vocabulary, job.setup.model.positions_max)->steps_total();
  profile.log = log_of(config.output_dir);
  job.data = std::make_unique<WithoutValidation>(std::move(job.data));
  Recorder recorder(job, options);
  if (const int signal = run_steps(job, scratch.lock(), recorder, profile); signal != 0) {
    std::fprintf(stderr, "stopped: nothing is kept\n");
    return 128 + signal;
  }
  recorder.fill(profile);
  profile.resident_peak = resident_peak();
  recorder.save_trace();
  job.config.file = config.file;
  const std::string json = to_json(profile, job);
  std::printf("%s", options.json ? (json + '\n').c_str() : to_text(profile, job).c_str());
  if (!options.report.empty()) write_report(options.report, json);
  return 0;
}

}  // namespace sluice::train
