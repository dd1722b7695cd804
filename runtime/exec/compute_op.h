// Turns a compute op of the schedule into a call of its block's program.
#pragma once

#include <functional>

#include "models/program.h"
#include "runtime/core/result.h"
#include "runtime/plan/schedule.h"

namespace sluice::exec {

using Address = std::function<std::byte*(const plan::Operand&)>;

struct ComputeContext {
  const models::Model* model = nullptr;
  Dtype gradient_dtype = Dtype::f32;
  std::span<const models::MicroBatch> micro_batches;
};

struct ComputeOutcome {
  double loss_sum = 0;  // loss ops
  Result<void> result;
  // Where the op was only enqueued: called once it has ended, for the outcome that counts. May be empty.
  std::function<ComputeOutcome()> when_done;
};

// Runs on the compute thread. An output or a loss that is not finite is an error naming block and micro-batch.
ComputeOutcome run_compute(const plan::Op& op, const ComputeContext& context, const Address& address);

}  // namespace sluice::exec
