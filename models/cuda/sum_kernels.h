// Kernels of models/ops/ops.h on a GPU that add up: over tokens, over runs of them, over losses. Always in the same
// order.
#pragma once

#include "models/ops/ops.h"

namespace sluice::models::cuda {

template <class T>
void column_runs(const void* x, float* runs, int64_t rows, int64_t width);
void store_runs(const float* runs, int64_t count, int64_t width, GradientTarget y);
// `sum` lies in host memory that the GPU writes to.
void sum_losses(const double* losses, int64_t count, Store store, double* sum);
// Sets *bad, in such memory, when an element is infinite or no number.
void check_finite(const void* elements, int64_t count, Dtype dtype, uint32_t* bad);

}  // namespace sluice::models::cuda
