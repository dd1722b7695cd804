// Turns a compute op of the schedule into a call of its block's program.
#pragma once

#include <functional>
#include <optional>

#include "models/program.h"
#include "runtime/core/result.h"
#include "runtime/exec/not_finite.h"
#include "runtime/plan/schedule.h"

namespace sluice::exec {

using Address = std::function<std::byte*(const plan::Operand&)>;

struct ComputeContext {
  const models::Model* model = nullptr;
  Dtype gradient_dtype = Dtype::f32;
  std::span<const models::MicroBatch> micro_batches;  // outlive the phase
  WhenNotFinite when_not_finite = WhenNotFinite::fails;
};

struct ComputeOutcome {
  double loss_sum = 0;  // loss ops
  Result<void> result;
  // The call may only have enqueued the op. Called once it has ended, for the outcome that counts. May be empty.
  std::function<ComputeOutcome()> when_done;
  std::optional<NotFinite> not_finite;  // where that is no failure
};

// Runs on the compute thread. `report` is this op's own, until when_done has returned. Outputs and losses are checked
// to be finite, and of f16 gradients of inputs too: those of the weights before may be frozen, and show nothing.
ComputeOutcome run_compute(const plan::Op& op, const ComputeContext& context, const Address& address,
                           models::OpReport& report);

}  // namespace sluice::exec
