#include <cuda_runtime_api.h>

#include "models/cuda/cuda_ops.h"
#include "models/cuda/stream.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "tests/blocks/block_device.h"

namespace sluice::block_device {

std::string missing() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaSuccess && count > 0) return "";
  return std::string("no GPU here: ") + cudaGetErrorString(result);
}

std::unique_ptr<models::Ops> make_ops() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaSetDevice(0), "choosing the GPU");
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  models::cuda::use_stream(stream, 0);
  return models::cuda::make_cuda_ops({.tokens_max = 4096, .micro_batches_max = 8, .positions_max = 4096});
}

std::byte* allocate(int64_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, static_cast<size_t>(bytes)), "allocating memory of the GPU");
  return static_cast<std::byte*>(memory);
}
void release(std::byte* memory) { cudaFree(memory); }
void write(std::byte* to, std::span<const std::byte> from) {
  finish();
  copy_to_device(to, from, "what a block reads");
}
std::vector<std::byte> read(const std::byte* from, int64_t bytes) {
  finish();
  std::vector<std::byte> found(static_cast<size_t>(bytes));
  check_cuda(cudaMemcpy(found.data(), from, found.size(), cudaMemcpyDeviceToHost), "copying what a block wrote");
  return found;
}
void finish() { check_cuda(cudaStreamSynchronize(models::cuda::stream()), "waiting for the GPU"); }

}  // namespace sluice::block_device
