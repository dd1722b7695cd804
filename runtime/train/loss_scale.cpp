#include "runtime/train/loss_scale.h"

#include <algorithm>
#include <cmath>

namespace sluice::train {
namespace {

constexpr const char* kWayOut =
    "use bf16: true, whose numbers reach as far as fp32's, or neither; or lower learning_rate, or check the data of "
    "these steps";

Error norm_not_finite(int64_t step) {
  return {ErrorCode::io, "the gradient norm of step " + std::to_string(step) + " is not finite",
          "lower learning_rate or check the data of this step"};
}

}  // namespace

LossScale::LossScale(const Config& config, const std::optional<LossScaleState>& resumed)
    : dynamic_(config.compute_dtype == Dtype::f16), growth_interval_(config.fp16_growth_interval) {
  state_.scale = config.fp16_init_scale;
  if (resumed) state_ = *resumed;
}

std::optional<Error> LossScale::judge(int64_t step, const Found& found) {
  const bool norm_is_finite = std::isfinite(found.squared_gradient_norm);
  if (!dynamic_) {
    if (!norm_is_finite) throw RunError(norm_not_finite(step));
    return std::nullopt;
  }
  std::optional<Error> overflow = found.output;
  // No scale enters there.
  if (overflow && state_.scale <= kFloor)
    throw RunError(
        {overflow->code, overflow->message + ", and the loss scale is down at 1: fp16 ends at 65504", kWayOut});
  if (!overflow) overflow = found.gradient;
  if (!overflow && !norm_is_finite) overflow = norm_not_finite(step);
  overflow ? back_off(step, *overflow) : grow();
  return overflow;
}

void LossScale::grow() {
  state_.overflows_at_floor = 0;
  if (++state_.steps_without_overflow < growth_interval_) return;
  state_.steps_without_overflow = 0;
  // As far as torch's scale goes, an fp32 number.
  if (std::isfinite(static_cast<float>(state_.scale * kGrowth))) state_.scale *= kGrowth;
}

void LossScale::back_off(int64_t step, const Error& overflow) {
  ++state_.skipped_steps;
  state_.steps_without_overflow = 0;
  if (state_.scale > kFloor) {
    state_.scale = std::max(kFloor, state_.scale * kBackoff);
    return;
  }
  if (++state_.overflows_at_floor < kOverflowsAtFloorMost) return;
  throw RunError({ErrorCode::io,
                  "fp16 overflows whatever the loss scale: it is down at 1, and the last " +
                      std::to_string(kOverflowsAtFloorMost) + " steps up to step " + std::to_string(step) +
                      " were skipped all the same (" + overflow.message + ")",
                  kWayOut});
}

}  // namespace sluice::train
