// What a step did beside its arithmetic: how long it took, against its bound, and which bytes it moved.
#pragma once

#include <array>
#include <map>
#include <vector>

#include "runtime/exec/executor.h"
#include "runtime/plan/seen_rates.h"
#include "runtime/train/job.h"
#include "runtime/train/metrics.h"
#include "swap/swap_engine.h"

namespace sluice::train {

// Of one run; not thread-safe.
class StepMeter {
 public:
  // `job` must outlive it.
  explicit StepMeter(Job& job) : job_(job), rates_(job.request.profile) {}

  // A step begins; `before`: what its drives have moved so far.
  void begin(const swap::SwapCounters& before);
  // One of its phases has ended.
  void add(const plan::Phase& phase, const exec::PhaseResult& result);
  // The step has ended: fills what `record` says of time and bytes from its tokens, which the caller has counted.
  void fill(StepRecord& record, const exec::Executor& executor, const swap::SwapCounters& after);

  // As SeenRates::compute_pace; of each step, compute's time over what was foreseen.
  double compute_pace() const { return rates_.compute_pace(); }
  const std::vector<double>& paces() const { return paces_; }

 private:
  Microseconds foreseen_compute(const plan::Phase& phase);

  // In one phase or two.
  struct StepWork {
    double seconds = 0;
    size_t micro_batches = 0;
    std::array<plan::LaneWork, kLaneCount> lanes{};
    std::array<Microseconds, kLaneCount> busy{};
    Microseconds foreseen_compute;
  };

  Job& job_;
  plan::SeenRates rates_;
  std::map<plan::Phase, Microseconds> foreseen_compute_;
  std::vector<double> paces_;
  StepWork work_;
  swap::SwapCounters before_;
};

}  // namespace sluice::train
