// Numbers that are infinite or none, found while a phase ran: a run that went wrong, or fp16's overflow, which costs a
// step (train/loss_scale.h).
#pragma once

#include <cstdint>

#include "runtime/core/result.h"

namespace sluice::exec {

struct NotFinite {
  enum class Of : uint8_t { output, gradient };  // a block's output or a loss; the gradient of a block's input
  Of of = Of::output;
  Error error;  // names block, micro-batch and step
};

enum class WhenNotFinite : uint8_t { fails, is_reported };

}  // namespace sluice::exec
