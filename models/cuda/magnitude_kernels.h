// Kernels of models/ops/kernels.h on a GPU that DoRA alone needs: norms of a matrix's rows, and what scales columns by
// them.
#pragma once

#include "models/ops/kernels.h"

namespace sluice::models::cuda {

template <class T>
void row_norms(const void* w, const void* more, float scale, float* norms, int64_t rows, int64_t width);
template <class T>
void magnitude_factors(const void* magnitudes, const float* norms, float* factors, int64_t count);
template <class T>
void scale_columns(const void* x, int64_t x_stride, const float* factors, float shift, void* y, int64_t y_stride,
                   Store store, int64_t rows, int64_t width);
template <class T>
void product_runs(const void* a, int64_t a_stride, const void* b, const float* divisors, float* runs, int64_t rows,
                  int64_t width);

}  // namespace sluice::models::cuda
