// models/ops/ops.h on one NVIDIA GPU.
//
// Threads: `place`, `reports` and the constructor on any thread, while no op runs; everything else on the thread that
// was given to `use_stream`, which only enqueues.
#pragma once

#include <memory>

#include "models/ops/ops.h"

struct CUstream_st;

namespace sluice::models::cuda {

struct CudaOpsOptions {
  int device = 0;
  int64_t tokens_max = 0;  // of all micro-batches that are placed at once, each of the same share at most
  int64_t micro_batches_max = 0;
  int64_t positions_max = 0;  // of a document
  bool deterministic = true;  // attention's backward; else the faster one
};

// What it takes of device memory for itself: the numbers of micro-batches, angles, cuBLASLt's workspace. LibTorch's
// allocator comes on top while attention runs.
Bytes device_bytes(const CudaOpsOptions& options, int64_t head_dim);

// Takes its device memory at once but for the angles, which come with the first call. Throws RunError.
std::unique_ptr<Ops> make_cuda_ops(const CudaOpsOptions& options);

// All calls of this thread, LibTorch's too, go to `stream` of GPU `device` from now on.
void use_stream(CUstream_st* stream, int device);

}  // namespace sluice::models::cuda
