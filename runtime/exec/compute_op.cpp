#include "runtime/exec/compute_op.h"

#include <cmath>

namespace sluice::exec {
namespace {

using plan::Role;

Error not_finite(const std::string& what, const models::BlockProgram& block, const models::MicroBatch& batch) {
  return {ErrorCode::io,
          what + " of block " + block.name() + " is not finite (micro-batch " + std::to_string(batch.index + 1) +
              " of step " + std::to_string(batch.step) + ")",
          "lower learning_rate, set max_grad_norm, or check the data of this step"};
}

// The op's operands, sorted by what they are.
struct Arguments {
  std::vector<const void*> parameters;
  std::vector<void*> gradients, slots;
  std::vector<const void*> kept_slots;
  const void* input = nullptr;
  const void* output_gradient = nullptr;
  void* output = nullptr;
  void* input_gradient = nullptr;
  std::span<std::byte> workspace;

  Arguments(const plan::Op& op, const models::BlockProgram& block, const Address& address)
      : parameters(block.groups().size()), gradients(block.groups().size()), slots(block.slots().size()) {
    for (const plan::Operand& operand : op.operands) {
      std::byte* at = address(operand);
      const auto index = static_cast<size_t>(operand.index);
      switch (operand.role) {
        case Role::parameters:
          parameters[index] = at;
          break;
        case Role::gradients:
          gradients[index] = at;
          break;
        case Role::slot:
          slots[index] = at;
          break;
        case Role::input:
          input = at;
          break;
        case Role::output:
          output = at;
          break;
        case Role::output_gradient:
          output_gradient = at;
          break;
        case Role::input_gradient:
          input_gradient = at;
          break;
        case Role::workspace:
          workspace = {at, static_cast<size_t>(operand.bytes)};
          break;
        case Role::source:
        case Role::destination:
        case Role::states:
          SLUICE_CHECK(false, "not an operand of a compute op");
      }
    }
    kept_slots.assign(slots.begin(), slots.end());
  }
};

std::optional<NotFinite> find_not_finite(plan::OpKind kind, const models::BlockProgram& block,
                                         const models::MicroBatch& batch, const models::OpReport& report) {
  if (!std::isfinite(report.loss_sum)) return NotFinite{NotFinite::Of::output, not_finite("the loss", block, batch)};
  if (report.not_finite == 0) return std::nullopt;
  if (kind == plan::OpKind::forward) return NotFinite{NotFinite::Of::output, not_finite("the output", block, batch)};
  return NotFinite{NotFinite::Of::gradient, not_finite("the gradient of the input", block, batch)};
}

// Once the op has ended.
ComputeOutcome judged(plan::OpKind kind, const models::BlockProgram& block, const models::MicroBatch& batch,
                      const models::OpReport& report, WhenNotFinite when_not_finite) {
  ComputeOutcome outcome;
  outcome.loss_sum = report.loss_sum;
  std::optional<NotFinite> found = find_not_finite(kind, block, batch, report);
  if (found && when_not_finite == WhenNotFinite::fails) {
    outcome.result = std::move(found->error);
  } else {
    outcome.not_finite = std::move(found);
  }
  return outcome;
}

}  // namespace

ComputeOutcome run_compute(const plan::Op& op, const ComputeContext& context, const Address& address,
                           models::OpReport& report) {
  const models::Model& model = *context.model;
  const models::BlockProgram& block = *model.blocks[static_cast<size_t>(op.block)];
  const models::MicroBatch& batch = context.micro_batches[static_cast<size_t>(op.micro_batch)];
  const Arguments args(op, block, address);
  if (op.kind == plan::OpKind::forward) {
    block.forward({&batch, args.input, args.output, args.parameters, args.slots, args.workspace});
    model.context->check_finite(args.output, batch.tokens * model.hidden, model.compute_dtype, report);
  } else {
    std::vector<uint8_t> accumulate(op.accumulate.begin(), op.accumulate.end());
    accumulate.resize(block.groups().size(), 0);
    const models::BackwardArgs backward{&batch,          args.input,     args.output_gradient, args.input_gradient,
                                        args.parameters, args.gradients, accumulate,           context.gradient_dtype,
                                        args.kept_slots, args.workspace};
    op.kind == plan::OpKind::backward ? block.backward(backward) : model.head().loss(backward, report);
    if (model.compute_dtype == Dtype::f16 && args.input_gradient != nullptr)
      model.context->check_finite(args.input_gradient, batch.tokens * model.hidden, Dtype::f16, report);
  }
  ComputeOutcome enqueued;
  enqueued.when_done = [kind = op.kind, when = context.when_not_finite, &block, &batch, &report] {
    return judged(kind, block, batch, report, when);
  };
  return enqueued;
}

}  // namespace sluice::exec
