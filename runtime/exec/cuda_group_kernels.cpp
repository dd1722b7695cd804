#include "runtime/exec/cuda_group_kernels.h"

#include <cuda_runtime_api.h>

#include "optim/cuda/adamw_cuda.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"

namespace sluice::exec {
namespace {

class CudaGroupKernels final : public GroupKernels {
 public:
  explicit CudaGroupKernels(cudaStream_t stream) : stream_(stream) { optim::cuda::load_dynamic_tables(); }

  void update(const GroupChunk& chunk, const optim::AdamWSettings& settings) override {
    optim::AdamWSettings undecayed = settings;
    undecayed.weight_decay = 0;
    for_each_alike(chunk, 0, chunk.elements, [&](const optim::AdamWArrays& arrays, bool decays) {
      optim::cuda::update(decays ? settings : undecayed, arrays, stream_);
    });
  }
  void squared_norm(const std::byte* gradients, Dtype dtype, int64_t elements, double* runs) override {
    optim::cuda::squared_norm(gradients, dtype, elements, runs, stream_);
  }
  void copy(std::byte* to, const std::byte* from, int64_t bytes) override {
    check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_),
               "copying inside the GPU");
  }
  // Pinned: the device writes a few kilobytes of them per norm straight into the host's memory.
  std::span<double> allocate_sums(int64_t count) override {
    sums_ = CudaMemory(CudaMemoryKind::pinned, Bytes{count * static_cast<int64_t>(sizeof(double))}, "gradient norms");
    return {sums_.as<double>(), static_cast<size_t>(count)};
  }

 private:
  cudaStream_t stream_;
  CudaMemory sums_;
};

}  // namespace

std::unique_ptr<GroupKernels> make_cuda_group_kernels(CUstream_st* stream) {
  return std::make_unique<CudaGroupKernels>(stream);
}

}  // namespace sluice::exec
