// Attention by LibTorch's flash kernels for the CPU: for processors that tiled_attention.cpp does not serve, and the
// reference beside it. Arguments as in attention.h.
#pragma once

#include "models/ops/attention.h"

namespace sluice::models {

void flash_attention(Dtype dtype, const AttentionShape& shape, std::span<const int32_t> document_starts,
                     const void* qkv, void* output, float* log_sum_exp);
void flash_attention_backward(Dtype dtype, const AttentionShape& shape, std::span<const int32_t> document_starts,
                              const void* qkv, const void* output, const float* log_sum_exp,
                              const void* output_gradient, void* qkv_gradient);

// As attention_cached.
void flash_attention_cached(Dtype dtype, const AttentionShape& shape, const void* query, const void* keys,
                            const void* values, int64_t length, void* output);

}  // namespace sluice::models
