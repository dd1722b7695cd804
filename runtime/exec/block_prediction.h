// What measure_block_passes would measure on another machine: from what the programs say of their work and the
// machine's models.
#pragma once

#include "runtime/exec/block_pass.h"
#include "runtime/plan/machine.h"

namespace sluice::exec {

// `slot_recomputing` is filled. What LibTorch takes inside a block (`transient`) is not predicted: 0. Sliding windows
// count as full attention. Throws SetupError when the machine says nothing of the model's type.
BlockPasses predict_block_passes(const models::Model& model, const PassSize& size, const plan::Machine& machine);

}  // namespace sluice::exec
