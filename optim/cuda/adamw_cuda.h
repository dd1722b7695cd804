// AdamW and norms in a GPU's memory: the bits of optim/adamw.h. Calls only enqueue, on the given stream; throws
// RunError when that fails.
#pragma once

#include "optim/adamw.h"

struct CUstream_st;

namespace sluice::optim::cuda {

// All of `elements`; 16-byte aligned. The first `decayed` ones decay.
struct DeviceChunk {
  void* weights = nullptr;  // bf16, or fp32 where lo is null
  const void* gradients = nullptr;
  float *m = nullptr, *v = nullptr;
  int16_t* lo = nullptr;
  int64_t elements = 0, decayed = 0;
  Dtype gradient_dtype = Dtype::f32;
};
void adamw(const AdamWSettings& settings, const DeviceChunk& chunk, CUstream_st* stream);

// runs[i]: the sum of squares of the i-th kNormRunElements elements.
void squared_norm(const void* gradients, Dtype dtype, int64_t elements, double* runs, CUstream_st* stream);

}  // namespace sluice::optim::cuda
