// Updates and norms in a GPU's memory: the bits of optim/adamw.h. Calls only enqueue, on the given stream; throws
// RunError when that fails.
#pragma once

#include "optim/adamw.h"

struct CUstream_st;

namespace sluice::optim::cuda {

// Values and codes of the dynamic type, to where kernels find them: before the first update of int8 moments.
void load_dynamic_tables();

// All pointers are to the GPU's memory, 16-byte aligned; `first` is a multiple of four.
void update(const AdamWSettings& settings, const AdamWArrays& arrays, CUstream_st* stream);

// runs[i]: the sum of squares of the i-th kNormRunElements elements.
void squared_norm(const void* gradients, Dtype dtype, int64_t elements, double* runs, CUstream_st* stream);

}  // namespace sluice::optim::cuda
