// Results of the CUDA runtime as RunErrors.
#pragma once

#include <string>

namespace sluice {

// `result`: a cudaError_t. `what` was tried. Throws RunError unless it is cudaSuccess.
void check_cuda(int result, const std::string& what);

}  // namespace sluice
