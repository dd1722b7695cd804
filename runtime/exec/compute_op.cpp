#include "runtime/exec/compute_op.h"

#include <cmath>
#include <cstring>

namespace sluice::exec {
namespace {

using plan::Role;

// An exponent of all ones is infinity or NaN.
template <class Word>
bool all_finite(const std::byte* data, int64_t count, Word exponent) {
  const auto* words = reinterpret_cast<const Word*>(data);
  Word bad = 0;
  for (int64_t i = 0; i < count; ++i)
    bad = static_cast<Word>(bad | static_cast<Word>((words[i] & exponent) == exponent));
  return bad == 0;
}
bool all_finite(const std::byte* data, int64_t count, Dtype dtype) {
  return dtype == Dtype::f32 ? all_finite<uint32_t>(data, count, 0x7f800000u)
                             : all_finite<uint16_t>(data, count, uint16_t{0x7f80});
}

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

ComputeOutcome forward(const models::BlockProgram& block, const Arguments& args, const models::MicroBatch& batch,
                       const models::Model& model) {
  block.forward({&batch, args.input, args.output, args.parameters, args.slots, args.workspace});
  ComputeOutcome outcome;
  if (!all_finite(static_cast<const std::byte*>(args.output), batch.tokens * model.hidden, model.compute_dtype))
    outcome.result = not_finite("the output", block, batch);
  return outcome;
}

}  // namespace

ComputeOutcome run_compute(const plan::Op& op, const ComputeContext& context, const Address& address) {
  const models::BlockProgram& block = *context.model->blocks[static_cast<size_t>(op.block)];
  const models::MicroBatch& batch = context.micro_batches[static_cast<size_t>(op.micro_batch)];
  const Arguments args(op, block, address);
  if (op.kind == plan::OpKind::forward) return forward(block, args, batch, *context.model);

  const std::vector<uint8_t> accumulate =
      op.accumulate.empty() ? std::vector<uint8_t>(block.groups().size(), 0) : op.accumulate;
  const models::BackwardArgs backward{&batch,          args.input,     args.output_gradient, args.input_gradient,
                                      args.parameters, args.gradients, accumulate,           context.gradient_dtype,
                                      args.kept_slots, args.workspace};
  ComputeOutcome outcome;
  if (op.kind == plan::OpKind::backward) {
    block.backward(backward);
    return outcome;
  }
  outcome.loss_sum = context.model->head().loss(backward);
  if (!std::isfinite(outcome.loss_sum)) outcome.result = not_finite("the loss", block, batch);
  return outcome;
}

}  // namespace sluice::exec
