// Attention on a GPU by LibTorch's kernels: flash attention (Dao 2023, "FlashAttention-2") in bf16 and f16, its
// memory-efficient attention in fp32, document by document. LibTorch's allocator gives them what they want beside
// their operands; no micro-batch within the limits makes the backward take more of it than the first call of a shape.
#pragma once

#include <memory>

#include "models/ops/attention.h"

namespace sluice::models::cuda {

struct Documents {
  std::span<const int32_t> starts;         // [documents + 1], host
  const int32_t* device_starts = nullptr;  // the same on the device
  int64_t tokens = 0;
  int64_t longest = 0;
};

// Deterministic: the backward adds in one order, and takes more memory and time for it.
enum class AttentionBackward { deterministic, fastest };

// The largest micro-batch, and the longest document.
struct AttentionLimits {
  int64_t tokens = 0, document = 0;
};

// One caller at a time. Enqueues on this thread's stream.
class Attention {
 public:
  Attention(int device, AttentionBackward mode, AttentionLimits limits);
  ~Attention();

  // As Ops::attention. log_sum_exp: [heads, N].
  void forward(Dtype dtype, const AttentionShape& shape, const Documents& documents, const void* qkv, void* output,
               float* log_sum_exp);
  void backward(Dtype dtype, const AttentionShape& shape, const Documents& documents, const void* qkv,
                const void* output, const float* log_sum_exp, const void* output_gradient, void* qkv_gradient);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::models::cuda
