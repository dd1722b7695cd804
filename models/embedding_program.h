// The input embedding: rows of a table, and a deterministic scatter-add back.
#pragma once

#include <memory>

#include "models/decoder.h"
#include "models/program.h"

namespace sluice::models {

std::unique_ptr<BlockProgram> make_embedding_program(const DecoderSpec& spec, int group, const ParameterGroup& layout,
                                                     Dtype compute_dtype);

}  // namespace sluice::models
