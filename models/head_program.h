// Final norm, output projection and cross-entropy: loss and gradients in one pass over chunks of supervised tokens.
// Logits exist for one chunk of rows at a time.
#pragma once

#include <memory>

#include "models/decoder.h"
#include "models/ops/ops.h"

namespace sluice::models {

struct HeadSetup {
  DecoderSpec spec;
  Dtype compute_dtype = Dtype::f32;
  // The group of the projection, which is the embedding's when tied; the group of the final norm.
  std::vector<int> groups;
  std::vector<const ParameterGroup*> layouts;
  const Ops* ops = nullptr;  // must outlive the program
  bool own_loss = false;     // room for MicroBatch::loss; on the host's device alone
};

// Layouts are read, not kept.
std::unique_ptr<HeadProgram> make_head_program(const HeadSetup& setup);

}  // namespace sluice::models
