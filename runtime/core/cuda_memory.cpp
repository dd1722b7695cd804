#include "runtime/core/cuda_memory.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "runtime/core/cuda_error.h"
#include "runtime/core/result.h"

namespace sluice {

CudaUsage cuda_usage(int device) {
  check_cuda(cudaSetDevice(device), "choosing GPU " + std::to_string(device));
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "asking for the GPU's memory");
  return {{static_cast<int64_t>(free)}, {static_cast<int64_t>(total)}};
}

void copy_to_device(void* to, std::span<const std::byte> from, const std::string& what) {
  check_cuda(cudaMemcpy(to, from.data(), from.size(), cudaMemcpyHostToDevice), "copying " + what);
  // Out of pageable memory the call returns once the bytes are staged. Streams that do not block the legacy one, as
  // ours, would not wait for the rest of the way.
  check_cuda(cudaStreamSynchronize(cudaStreamLegacy), "copying " + what);
}

CudaMemory::CudaMemory(CudaMemoryKind kind, Bytes bytes, const std::string& what) : kind_(kind), bytes_(bytes) {
  if (bytes.count == 0) return;
  const auto count = static_cast<size_t>(bytes.count);
  const bool pinned = kind == CudaMemoryKind::pinned;
  const cudaError_t result = pinned ? cudaMallocHost(&memory_, count) : cudaMalloc(&memory_, count);
  if (result == cudaErrorMemoryAllocation && !pinned) {
    cudaGetLastError();  // it is no failure of what comes next
    int device = 0;
    check_cuda(cudaGetDevice(&device), "asking which GPU this is");
    const CudaUsage there = cuda_usage(device);
    throw SetupError(what + " takes " + to_string(bytes) + " of GPU " + std::to_string(device) + ", and " +
                         to_string(there.free) + " of its " + to_string(there.total) + " are free",
                     "lower offload.max_gpu, micro_batch_size or sequence_len, or end the other processes that "
                     "`nvidia-smi` shows");
  }
  check_cuda(result, "allocating " + to_string(bytes) + " for " + what);
}

CudaMemory::~CudaMemory() {
  if (memory_ == nullptr) return;
  kind_ == CudaMemoryKind::pinned ? cudaFreeHost(memory_) : cudaFree(memory_);
}

CudaMemory::CudaMemory(CudaMemory&& other) noexcept
    : kind_(other.kind_), bytes_(std::exchange(other.bytes_, {})), memory_(std::exchange(other.memory_, nullptr)) {}

CudaMemory& CudaMemory::operator=(CudaMemory&& other) noexcept {
  std::swap(kind_, other.kind_);
  std::swap(bytes_, other.bytes_);
  std::swap(memory_, other.memory_);
  return *this;
}

}  // namespace sluice
