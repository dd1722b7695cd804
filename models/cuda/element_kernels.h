// Kernels of models/ops/kernels.h on a GPU: what works on elements, or pairs of them, alone.
#pragma once

#include "models/ops/kernels.h"

namespace sluice::models::cuda {

template <class T>
void rope(void* x, Heads heads, const int32_t* positions, RopeAngles angles, float direction, int64_t rows);
template <class T>
void swiglu(const void* gate_up, void* y, int64_t rows, int64_t ffn);
template <class T>
void swiglu_backward(const void* gate_up, const void* dy, void* gate_up_gradient, void* y, int64_t rows, int64_t ffn);
template <class T>
void add_bias(void* x, const void* bias, int64_t rows, int64_t width);
template <class T>
void add(const void* a, const void* b, void* y, int64_t elements);
template <class T>
void scale(void* x, float factor, int64_t elements);
template <class T>
void dropout(const void* x, void* y, int64_t elements, float p, DropoutKey key);
template <class T>
void store_gradient(const void* from, void* to, Dtype to_dtype, Store store, int64_t elements);

}  // namespace sluice::models::cuda
