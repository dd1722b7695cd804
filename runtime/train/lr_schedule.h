// The learning rate as a function of the step number: transformers' get_{constant,linear,cosine}_schedule_with_warmup.
#pragma once

#include <cstdint>

#include "runtime/train/config.h"

namespace sluice::train {

class LearningRate {
 public:
  LearningRate() = default;
  // `warmup_ratio` of the config counts in steps of the job, rounded up.
  LearningRate(const Config& config, int64_t steps_total);

  // Of the update of step `step`, counted from 0.
  double at(int64_t step) const;
  int64_t warmup_steps() const { return warmup_steps_; }

 private:
  LearningRateSchedule schedule_ = LearningRateSchedule::constant;
  double peak_ = 0;
  int64_t warmup_steps_ = 0;
  int64_t steps_total_ = 0;
};

}  // namespace sluice::train
