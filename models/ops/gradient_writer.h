// Puts the gradient of one group where the caller wants it: whole, in its dtype, gaps zeroed, written or added.
#pragma once

#include "models/ops/gemm.h"
#include "models/ops/kernels.h"
#include "models/parameter_group.h"
#include "models/program.h"

namespace sluice::models {

class GradientWriter {
 public:
  // `temporary`: room for the largest matrix in the compute dtype. A null gradient makes every call do nothing.
  GradientWriter(const ParameterGroup& group, void* gradient, Dtype gradient_dtype, Dtype compute_dtype, Store store,
                 void* temporary);

  bool wanted() const { return gradient_ != nullptr; }
  // a^T b into `elements` from `offset` on. a [N, O], b [N, I].
  void product(Matrix a, Matrix b, int64_t offset);
  // Sums of fp32 runs [count, width].
  void runs(const float* runs, int64_t count, int64_t width, int64_t offset);

 private:
  void* at(int64_t offset) const;

  void* gradient_;
  Dtype gradient_dtype_, compute_dtype_;
  Store store_;
  void* temporary_;
};

// Elements of the largest product that goes through the temporary.
int64_t largest_tensor(const ParameterGroup& group);

}  // namespace sluice::models
