// What this machine's GEMM reaches on one shape: the ceiling that compute is measured against.
#pragma once

#include <cstdint>

#include "runtime/core/dtype.h"

namespace sluice::models {

// FLOP/s of [tokens, in] x [in, out] in `dtype`, best of several runs of together about `seconds`. Runs on the caller's
// thread and LibTorch's intra-op pool.
double measure_gemm_flops(Dtype dtype, int64_t tokens, int64_t in, int64_t out, double seconds);

}  // namespace sluice::models
