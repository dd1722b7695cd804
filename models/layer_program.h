// One decoder layer: norm, attention, residual, norm, gated MLP, residual, with a hand-written backward and optional
// low-rank adapters (Hu et al. 2021, "LoRA", section 4.1) on any projection.
#pragma once

#include <memory>

#include "models/decoder.h"
#include "models/ops/ops.h"

namespace sluice::models {

struct LayerSetup {
  DecoderSpec spec;
  std::optional<AdapterSpec> adapter;
  Dtype compute_dtype = Dtype::f32;
  int64_t layer = 0;
  std::vector<int> groups;                     // of the model: the layer's, then its adapter's
  std::vector<const ParameterGroup*> layouts;  // the same, for offsets
  LowBitFormats low_bits;
  std::shared_ptr<RopeTable> rope;  // shared by all layers: they have the same angles
  const Ops* ops = nullptr;         // must outlive the program
};

// Layouts are read, not kept.
std::unique_ptr<LayerProgram> make_layer_program(const LayerSetup& setup);

}  // namespace sluice::models
