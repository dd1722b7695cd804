// What fp16 multiplies the loss by, so that small gradients do not vanish (Micikevicius et al. 2018, "Mixed Precision
// Training", section 3.2): as torch.amp.GradScaler moves it. A step whose gradients overflow is skipped, and does not
// count: neither for AdamW's bias correction nor for the learning rate, as in accelerate.
#pragma once

#include <cstdint>
#include <optional>

#include "runtime/core/result.h"
#include "runtime/train/config.h"

namespace sluice::train {

// Part of a checkpoint.
struct LossScaleState {
  double scale = 65536;
  int64_t steps_without_overflow = 0;  // since the scale was last changed
  int64_t skipped_steps = 0;           // of the job
  int64_t overflows_at_floor = 0;      // in a row
  bool operator==(const LossScaleState&) const = default;
};

class LossScale {
 public:
  static constexpr double kGrowth = 2, kBackoff = 0.5, kFloor = 1;
  static constexpr int64_t kOverflowsAtFloorMost = 20;

  // Of a job that does not compute in fp16: one, for good. `resumed`: from a checkpoint.
  LossScale(const Config& config, const std::optional<LossScaleState>& resumed);

  bool dynamic() const { return dynamic_; }
  double value() const { return dynamic_ ? state_.scale : 1; }
  int64_t skipped_steps() const { return state_.skipped_steps; }
  const LossScaleState& state() const { return state_; }

  // What a step found that was not finite: its gradients' squared norm, an output or a loss, a gradient on its way.
  struct Found {
    double squared_gradient_norm = 0;
    std::optional<Error> output, gradient;
  };
  // Why the step must be skipped; nothing: it counts. Without a dynamic scale, and where a smaller one would not help,
  // throws RunError. `step` counts from 1.
  std::optional<Error> judge(int64_t step, const Found& found);

 private:
  void grow();
  void back_off(int64_t step, const Error& overflow);

  bool dynamic_;
  int64_t growth_interval_;
  LossScaleState state_;
};

}  // namespace sluice::train
