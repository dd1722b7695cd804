// The stream that this thread's calls enqueue on.
#pragma once

#include <string>

struct CUstream_st;

namespace sluice::models::cuda {

// As use_stream set it (cuda_ops.h).
CUstream_st* stream();

// Throws RunError with CUDA's own words when `result` is an error. `what`: "copying the token ids".
// `result` is a cudaError_t.
void check(int result, const std::string& what);
// Of the kernel that was launched last.
void check_launch(const char* kernel);

}  // namespace sluice::models::cuda
