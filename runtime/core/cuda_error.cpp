#include "runtime/core/cuda_error.h"

#include <cuda_runtime_api.h>

#include "runtime/core/result.h"

namespace sluice {

void check_cuda(int result, const std::string& what) {
  const auto error = static_cast<cudaError_t>(result);
  if (error == cudaSuccess) return;
  cudaGetLastError();  // said here; the next launch of whoever goes on would take it for its own
  throw RunError({ErrorCode::io, what + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error),
                  "look for messages of the driver with `dmesg | grep -i nvrm`"});
}

}  // namespace sluice
