// Puts the gradient of one group where the caller wants it: whole, in its dtype, gaps zeroed, written or added.
#pragma once

#include "models/ops/ops.h"
#include "models/parameter_group.h"

namespace sluice::models {

// Where a backward pass wants the gradient of its group with that index.
GradientTarget target_of(const BackwardArgs& args, size_t group);

class GradientWriter {
 public:
  // `temporary`: room for the largest matrix in the compute dtype. Without target.data every call does nothing.
  GradientWriter(const Ops& ops, const ParameterGroup& group, GradientTarget target, Dtype compute_dtype,
                 void* temporary);

  bool wanted() const { return target_.data != nullptr; }
  // a^T b into `elements` from `offset` on. a [N, O], b [N, I].
  void product(Matrix a, Matrix b, int64_t offset);
  // Sums of fp32 runs [count, width].
  void runs(const float* runs, int64_t count, int64_t width, int64_t offset);

 private:
  GradientTarget at(int64_t offset) const;

  const Ops* ops_;
  GradientTarget target_;
  Dtype compute_dtype_;
  void* temporary_;
};

// Elements of the largest product that goes through the temporary.
int64_t largest_tensor(const ParameterGroup& group);

}  // namespace sluice::models
