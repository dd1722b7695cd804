// A step as a run records it, with figures that are easy to find again.
#pragma once

#include "runtime/train/metrics.h"

namespace sluice::train {

inline StepRecord some_record(int64_t step) {
  StepRecord record;
  record.step = step;
  record.loss = 2.5;
  record.grad_norm = 1.25;
  record.learning_rate = 2e-05;
  record.tokens = 1024;
  record.step_seconds = 0.5;
  record.tokens_per_second = 2048;
  record.bound_seconds = 0.4;
  record.percent_of_bound = 80;
  record.binding_lane = "read";
  record.device_peak_bytes = 1;
  record.host_peak_bytes = 2;
  record.disk_read_bytes = 3;
  record.disk_write_bytes = 4;
  return record;
}

}  // namespace sluice::train
