// The flat layout of the parameters that stream, train and are stored together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::models {

// One tensor inside a group. Offsets and sizes are in elements of the group's flat vector.
struct ParameterTensor {
  std::string name;  // as in the Hugging Face checkpoint, e.g. "model.layers.3.mlp.up_proj.weight"
  std::vector<int64_t> shape;
  int64_t offset = 0;
  int64_t elements = 0;
};

// A flat vector of parameters. Matrices come first (weight decay applies to [0, decay_elements)), then
// norms and biases (no decay, as Hugging Face's Trainer does). Tensors that one GEMM multiplies together
// (q|k|v, gate|up) follow one another without a gap; every such family starts at a multiple of
// kTensorAlignmentElements, and so does decay_elements. Gaps hold zeros in weights, states and gradients.
struct ParameterGroup {
  std::string name;  // "embedding", "layer.3", "layer.3.adapter", "head"
  bool trainable = false;
  int64_t elements = 0;  // padded to kTensorAlignmentElements
  int64_t decay_elements = 0;
  std::vector<ParameterTensor> tensors;
};

}  // namespace sluice::models
