// Matrices in low bits, expanded on a GPU: bits as the host's kernels give them (models/ops/low_bit_kernels.h).
#pragma once

#include "models/low_bit.h"
#include "runtime/core/cuda_memory.h"

namespace sluice::models::cuda {

// What codes stand for, on the device.
class LowBitTables {
 public:
  LowBitTables();
  const float* values(LowBit kind) const;                                // [16]
  const float* dynamic() const { return memory_.as<float>() + 2 * 16; }  // [256]

 private:
  CudaMemory memory_;
};

// The range of `from` to rows `stride` elements apart, on the calling thread's stream.
void expand(const LowBitTables& tables, Dtype dtype, const StoredMatrix& from, MatrixRange range, void* to,
            int64_t stride);

}  // namespace sluice::models::cuda
