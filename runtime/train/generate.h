// Text from a model: weights in memory, keys and values cached, greedy or sampled.
#pragma once

#include "runtime/train/entry.h"

namespace sluice::train {

// Prints the text to stdout as it comes. Throws SetupError.
int generate_text(const GenerateOptions& options);

}  // namespace sluice::train
