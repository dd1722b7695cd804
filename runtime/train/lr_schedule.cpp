#include "runtime/train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sluice::train {

LearningRate::LearningRate(const Config& config, int64_t steps_total)
    : schedule_(config.lr_scheduler),
      peak_(config.learning_rate),
      warmup_steps_(config.warmup_steps > 0
                        ? config.warmup_steps
                        : static_cast<int64_t>(std::ceil(static_cast<double>(steps_total) * config.warmup_ratio))),
      steps_total_(steps_total) {}

double LearningRate::at(int64_t step) const {
  const auto now = static_cast<double>(step);
  const auto warmup = static_cast<double>(warmup_steps_);
  const auto total = static_cast<double>(steps_total_);
  if (step < warmup_steps_) return peak_ * (now / std::max(1.0, warmup));
  const double decay_steps = std::max(1.0, total - warmup);
  switch (schedule_) {
    case LearningRateSchedule::constant:
      return peak_;
    case LearningRateSchedule::linear:
      return peak_ * std::max(0.0, (total - now) / decay_steps);
    case LearningRateSchedule::cosine:
      // One half of a cycle, from 1 down to 0.
      return peak_ * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * ((now - warmup) / decay_steps))));
  }
  return peak_;
}

}  // namespace sluice::train
