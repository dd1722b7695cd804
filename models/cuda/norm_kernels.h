// Kernels of models/ops/kernels.h on a GPU: norms of rows and of heads.
#pragma once

#include "models/ops/kernels.h"

namespace sluice::models::cuda {

template <class T>
void rms_norm(void* x, const void* addend, const void* w, void* y, int64_t rows, int64_t width, float epsilon);
template <class T>
void rms_norm_backward(const void* x, const void* w, const void* dy, const void* residual, void* dx, float* weight_runs,
                       int64_t rows, int64_t width, float epsilon);
template <class T>
void head_norm(const void* x, const void* w, void* y, Heads heads, int64_t rows, float epsilon);
template <class T>
void head_norm_backward(const void* x, const void* w, const void* dy, void* dx, float* weight_runs, Heads heads,
                        int64_t rows, float epsilon);

}  // namespace sluice::models::cuda
