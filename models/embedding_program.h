// The input embedding: rows of a table, and a deterministic scatter-add back.
#pragma once

#include <memory>

#include "models/decoder.h"
#include "models/ops/ops.h"

namespace sluice::models {

// `ops` must outlive the program.
std::unique_ptr<BlockProgram> make_embedding_program(const Ops& ops, const DecoderSpec& spec, int group,
                                                     const ParameterGroup& layout, Dtype compute_dtype);

}  // namespace sluice::models
