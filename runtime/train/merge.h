// `sluice merge`: an adapter added into its base's weights, as peft's merge_and_unload does, tensor by tensor.
#pragma once

#include "runtime/train/entry.h"

namespace sluice::train {

// W + scale * B A, computed in fp32 and rounded once to the type that is written. Takes memory for one tensor's adapter
// and a piece of the tensor. Writes beside `out` and renames when all is there. Throws SetupError (nothing written) and
// RunError (what was written is removed by the next try).
int run_merge(const MergeOptions& options);

}  // namespace sluice::train
