// Checkpoints that bitsandbytes quantised, as transformers saves them: which matrices are in low bits, and how.
#pragma once

#include <map>
#include <string>

#include "models/low_bit.h"
#include "models/safetensors.h"

namespace sluice::models {

struct LowBitCheckpoint {
  LowBitFormats formats;
  std::map<std::string, float>
      nested_offsets;  // by matrix, with double quantisation: no tensor of the files holds them
};

// Reads the small tensors that describe formats, and takes them out of the index: what is left are tensors to load.
// Empty for a checkpoint in plain types. Throws SetupError naming file and tensor: a block size or table that is not
// bitsandbytes' own, a description that is missing or cannot be read.
LowBitCheckpoint take_low_bit_descriptions(TensorIndex& index);

}  // namespace sluice::models
