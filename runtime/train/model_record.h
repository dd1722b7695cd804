// What a checkpoint remembers of its model, to be compared with the one that a job goes on with.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "runtime/train/model_setup.h"

namespace sluice::train {

// The decoder's numbers by name; with an adapter also a checksum over the frozen weights: every tensor's name, type and
// shape, and a few KiB of each, so that another model of the same shape is noticed without reading all of it.
nlohmann::ordered_json record_of(const ModelSetup& setup);

}  // namespace sluice::train
