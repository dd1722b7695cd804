// The stream that this thread's calls enqueue on.
#pragma once

struct CUstream_st;

namespace sluice::models::cuda {

// As use_stream set it (cuda_ops.h).
CUstream_st* stream();

// Throws RunError when the kernel that was launched last could not be.
void check_launch(const char* kernel);

}  // namespace sluice::models::cuda
