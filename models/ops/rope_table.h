// Rotation angles of rotary position embedding (Su et al. 2021) in the variants that checkpoints name, as
// transformers' modeling_rope_utils.py computes them: fp32 frequencies, cos and sin rounded to the compute dtype.
#pragma once

#include <cstdint>
#include <vector>

#include "models/decoder.h"
#include "models/ops/kernels.h"

namespace sluice::models {

// [head_dim / 2] rotations per position, and the factor on cos and sin.
struct RopeFrequencies {
  std::vector<float> inverse;
  float attention_factor = 1;
};
RopeFrequencies rope_frequencies(const RopeSpec& spec, int64_t head_dim);

// Grows to the positions asked for. One caller at a time, as programs are called.
class RopeTable {
 public:
  RopeTable(const RopeSpec& spec, int64_t head_dim, Dtype compute_dtype);
  RopeAngles angles(int64_t positions);
  // Angles per position: head_dim / 2.
  int64_t rotations() const { return static_cast<int64_t>(frequencies_.inverse.size()); }

 private:
  RopeFrequencies frequencies_;
  Dtype dtype_;
  int64_t positions_ = 0;
  std::vector<float> cos_, sin_;
};

}  // namespace sluice::models
