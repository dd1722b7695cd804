// The flat layout of the parameters that stream, train and are stored together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/dtype.h"

namespace sluice::models {

// One tensor inside a group. Offsets are in elements of the group's flat vector, sizes in the tensor's own.
struct ParameterTensor {
  std::string name;  // as in the Hugging Face checkpoint, e.g. "model.layers.3.mlp.up_proj.weight"
  std::vector<int64_t> shape;
  int64_t offset = 0;
  int64_t elements = 0;
  Dtype packed_as = Dtype::u8;  // of a packed group
};

// A flat vector of parameters. Matrices come first (weight decay applies to [0, decay_elements)), then
// norms and biases (no decay, as Hugging Face's Trainer does). Tensors that one GEMM multiplies together
// (q|k|v, gate|up) follow one another without a gap; every such family starts at a multiple of
// kTensorAlignmentElements, and so does decay_elements. Gaps hold zeros in weights, states and gradients.
// A packed group holds matrices in low bits (models/low_bit.h) beside plain tensors: its elements are bytes, every
// tensor starts at a multiple of kTensorAlignmentBytes, and it is frozen.
struct ParameterGroup {
  std::string name;  // "embedding", "layer.3", "layer.3.adapter", "head"
  bool trainable = false;
  int64_t elements = 0;  // padded to kTensorAlignmentElements
  int64_t decay_elements = 0;
  std::vector<ParameterTensor> tensors;
  bool packed = false;

  int64_t weight_bytes_per_element(Dtype compute) const { return packed ? 1 : size_of(compute); }
  int64_t weight_bytes(Dtype compute) const { return elements * weight_bytes_per_element(compute); }
  // Elements of the group that a tensor takes per element of its own.
  int64_t width_of(const ParameterTensor& tensor) const { return packed ? size_of(tensor.packed_as) : 1; }
};

}  // namespace sluice::models
