// Which stored tensor fills which place of the groups. Names are the checkpoint's own, so this is a lookup with
// checks; what is there and not asked for is refused, as it would have changed what the model computes.
#pragma once

#include <vector>

#include "models/decoder.h"
#include "models/parameter_group.h"
#include "models/safetensors.h"

namespace sluice::models {

// One entry per group, in it one location per tensor; empty for groups that this source does not fill.
using GroupSources = std::vector<std::vector<TensorLocation>>;

// For every group but adapters. Throws SetupError: a tensor missing, of another shape, not f32, bf16 or f16, or not
// known to the model. With a tied head, a stored lm_head.weight is left aside when it repeats the embedding
// bit by bit (both are read once, in pieces), stands for the embedding when that is not stored, and is refused when it
// differs.
GroupSources locate_base_weights(const TensorIndex& index, const DecoderSpec& spec,
                                 const std::vector<ParameterGroup>& groups);

// For the adapter groups, from an existing adapter (read_adapter_directory). Throws as above.
GroupSources locate_adapter_weights(const TensorIndex& index, const std::vector<ParameterGroup>& groups);

// "layer.3.adapter"
bool is_adapter_group(const ParameterGroup& group);

}  // namespace sluice::models
