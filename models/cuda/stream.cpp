#include "models/cuda/stream.h"

#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <string>

#include "models/cuda/cuda_ops.h"
#include "runtime/core/cuda_error.h"

namespace sluice::models::cuda {
namespace {

thread_local CUstream_st* own_stream = nullptr;

}  // namespace

void use_stream(CUstream_st* stream, int device) {
  check_cuda(cudaSetDevice(device), "choosing GPU " + std::to_string(device));
  own_stream = stream;
  c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromExternal(stream, static_cast<c10::DeviceIndex>(device)));
}

CUstream_st* stream() { return own_stream; }

void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), std::string("launching ") + kernel); }

}  // namespace sluice::models::cuda
