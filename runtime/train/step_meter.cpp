#include "runtime/train/step_meter.h"

#include "runtime/plan/simulate.h"

namespace sluice::train {

void StepMeter::begin(const swap::SwapCounters& before) {
  work_ = {};
  before_ = before;
}

void StepMeter::add(const plan::Phase& phase, const exec::PhaseResult& result) {
  const plan::Schedule& schedule = job_.planned.schedule(phase, job_.shape, job_.request);
  const auto lanes = plan::work_of(schedule);
  const auto busy = plan::busy_times(schedule, result.ops);
  for (size_t lane = 0; lane < kLaneCount; ++lane) {
    work_.lanes[lane].time += lanes[lane].time;
    work_.lanes[lane].bytes += lanes[lane].bytes;
    work_.busy[lane] += busy[lane];
  }
  work_.foreseen_compute += foreseen_compute(phase);
  work_.seconds += result.seconds;
  work_.micro_batches += result.loss_sums.size();
}

// How long compute is busy in a phase of full micro-batches, by the plan.
Microseconds StepMeter::foreseen_compute(const plan::Phase& phase) {
  const auto [place, fresh] = foreseen_compute_.try_emplace(phase);
  if (fresh) {
    const plan::Schedule& schedule = job_.planned.schedule(phase, job_.shape, job_.request);
    const auto ops = plan::simulate(schedule, job_.planned.layout.buffers(), job_.request.profile).ops;
    place->second = plan::busy_times(schedule, ops)[static_cast<size_t>(Lane::compute)];
  }
  return place->second;
}

void StepMeter::fill(StepRecord& record, const exec::Executor& executor, const swap::SwapCounters& after) {
  record.step_seconds = work_.seconds;
  record.tokens_per_second = static_cast<double>(record.tokens) / work_.seconds;
  // The schedule counts full micro-batches; the step computed on the tokens that were there.
  const double share = static_cast<double>(record.tokens) /
                       static_cast<double>(job_.shape.tokens_max * static_cast<int64_t>(work_.micro_batches));
  work_.lanes[static_cast<size_t>(Lane::compute)].time.count *= share;
  if (work_.foreseen_compute.count > 0)
    paces_.push_back(work_.busy[static_cast<size_t>(Lane::compute)].count / (work_.foreseen_compute.count * share));
  const plan::Bound bound = rates_.bound_of_step(work_.lanes, work_.busy, {work_.seconds * 1e6});
  record.bound_seconds = bound.time.count / 1e6;
  record.percent_of_bound = 100 * record.bound_seconds / record.step_seconds;
  record.binding_lane = name_of(bound.lane);
  record.device_peak_bytes = executor.high_water(Tier::device).count;
  record.host_peak_bytes = executor.high_water(Tier::host).count;
  record.disk_read_bytes = after.read_bytes - before_.read_bytes;
  record.disk_write_bytes = after.write_bytes - before_.write_bytes;
}

}  // namespace sluice::train
