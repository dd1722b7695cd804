// Which weights these are, without reading them all.
#pragma once

#include <cstdint>

#include "models/safetensors.h"

namespace sluice::train {

// Checksum over names, types, shapes, and 4 KiB from the middle of every tensor. The same weights in other shards have
// the same. Throws SetupError naming file and tensor.
uint64_t sample_of(const models::TensorIndex& weights);

}  // namespace sluice::train
