#include "runtime/train/rehearsal.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "runtime/core/result.h"
#include "runtime/exec/executor.h"
#include "runtime/plan/seen_rates.h"
#include "runtime/train/free_memory.h"
#include "runtime/train/job_rates.h"
#include "runtime/train/progress.h"
#include "runtime/train/swap_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr int kStepsToSteady = 2;  // the first has nothing to update, the second nothing stored
constexpr int kSteps = 5;

struct StepTimes {
  double seconds = 0;
  std::array<Microseconds, kLaneCount> busy{};
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void refuse_too_large(const Job& job) {
  const Bytes needed = job.planned.memory.peak[static_cast<size_t>(Tier::device)] +
                       job.planned.memory.peak[static_cast<size_t>(Tier::host)];
  const Bytes left = free_memory();
  if (needed > left)
    throw SetupError("the rehearsal holds the device's arena in RAM too and needs " + to_string(needed) + " of it; " +
                         to_string(left) + " are free",
                     "lower offload.max_cpu or offload.max_gpu for the rehearsal");
}

class Rehearsal {
 public:
  explicit Rehearsal(Job& job) : job_(job), swap_(swap_options(job.config)), progress_(job.planned.plan) {
    make_base(job_);
    adapter_ = start_adapter(job_, AdapterValues::any, fs::temp_directory_path());
    exec::ExecutorOptions options;
    options.compute_waits = true;
    if (job.target) {
      options.h2d = job.target->h2d;
      options.d2h = job.target->d2h;
    } else if (job.request.memory == plan::DeviceMemory::separate) {
      options.h2d = options.d2h = link_to_rehearse(job);
    }
    executor_ =
        std::make_unique<exec::Executor>(job_.setup.model, job_.shape, job_.planned, job_.sources, swap_, options);
  }
  ~Rehearsal() {
    std::error_code ignored;
    if (!adapter_.empty()) fs::remove(adapter_, ignored);
  }
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  std::vector<StepTimes> run() {
    run_phase({plan::PhaseKind::load, job_.shape.micro_batches});
    std::vector<StepTimes> steps;
    for (int step = 0; step < kStepsToSteady + kSteps; ++step) steps.push_back(run_step());
    steps.erase(steps.begin(), steps.begin() + kStepsToSteady);
    return steps;
  }

 private:
  StepTimes run_step() {
    const bool early = plan::updates_behind_backward(job_.planned.plan);
    const StepTimes times = run_phase(progress_.step(job_.shape.micro_batches, early));
    progress_.updated();
    progress_.stepped(early);
    return times;
  }
  StepTimes run_phase(const plan::Phase& phase) {
    const plan::Schedule& schedule = job_.planned.schedule(phase, job_.shape, job_.request);
    const std::vector<models::MicroBatch> nothing(static_cast<size_t>(job_.shape.micro_batches));
    const exec::PhaseResult result = executor_->run(schedule, {nothing, {}, {}});
    return {result.seconds, plan::busy_times(schedule, result.ops)};
  }

  Job& job_;
  swap::SwapEngine swap_;
  Progress progress_;
  fs::path adapter_;
  std::unique_ptr<exec::Executor> executor_;
};

void print_row(std::string_view name, double simulated_us, double rehearsed_us) {
  if (simulated_us == 0 && rehearsed_us == 0) return;
  std::printf("%-16s %12s %12s", std::string(name).c_str(), to_string(Microseconds{simulated_us}).c_str(),
              to_string(Microseconds{rehearsed_us}).c_str());
  if (simulated_us > 0) std::printf("   %+.0f%%", 100 * (rehearsed_us / simulated_us - 1));
  std::printf("\n");
}

}  // namespace

void rehearse(Job& job) {
  refuse_too_large(job);
  const std::vector<StepTimes> steps = Rehearsal(job).run();
  const auto median_of = [&](const auto& get) {
    std::vector<double> values;
    for (const StepTimes& step : steps) values.push_back(get(step));
    return median(std::move(values));
  };
  const plan::Schedule& steady =
      job.planned.schedule(plan::steady_phase(job.planned.plan, job.shape.micro_batches), job.shape, job.request);
  const auto simulated = plan::busy_times(steady, job.planned.steady.ops);
  std::printf("\n%-16s %12s %12s   (%d steps, median; compute is waited for)\n", "rehearsal", "simulated", "rehearsed",
              kSteps);
  const double step_us = 1e6 * median_of([](const StepTimes& s) { return s.seconds; });
  print_row("step", job.planned.steady.time.count, step_us);
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    print_row(std::string(name_of(static_cast<Lane>(lane))) + " busy", simulated[lane].count,
              median_of([lane](const StepTimes& s) { return s.busy[lane].count; }));
  const plan::Bound& bound = job.planned.steady.bound;
  std::printf("bound %s (%s): the rehearsed step is at %.1f%% of it\n", to_string(bound.time).c_str(),
              std::string(name_of(bound.lane)).c_str(), 100 * bound.time.count / step_us);
}

}  // namespace sluice::train
