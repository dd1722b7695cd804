// Causal attention inside each document (Dao et al. 2022, "FlashAttention"): no scores in memory beyond a tile.
//
// The products of tiles go through oneDNN's block kernels (brgemm), which exist for this processor or not: where they
// do not, LibTorch's own flash attention for the CPU serves, slower and with allocations of its own.
#pragma once

#include <cstdint>
#include <span>

#include "models/ops/scratch.h"
#include "models/program.h"
#include "runtime/core/dtype.h"

namespace sluice::models {

// q|k|v of one token lie in one row: heads * size, kv_heads * size, kv_heads * size elements.
struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t window = 0;  // positions seen, the token's own included; 0: all
  float scale = 1;
  int64_t row() const { return (heads + 2 * kv_heads) * head_dim; }
};

// Keys and values of all tokens as the products want them, and sums over queries.
struct AttentionScratch {
  void *keys = nullptr, *values = nullptr;                        // per key head [N, D]
  void *keys_transposed = nullptr, *values_transposed = nullptr;  // per key head [D, N]
  float *key_gradients = nullptr, *value_gradients = nullptr;     // per query head [N, D]
};
AttentionScratch cut_attention(Scratch& scratch, Pass pass, Dtype dtype, const AttentionShape& shape, int64_t tokens);

// output [N, heads * head_dim] in dtype, log_sum_exp [N, heads] fp32.
void attention(Dtype dtype, const AttentionShape& shape, std::span<const int32_t> document_starts, const void* qkv,
               void* output, float* log_sum_exp, const AttentionScratch& scratch);
// qkv_gradient [N, row()] is written whole.
void attention_backward(Dtype dtype, const AttentionShape& shape, std::span<const int32_t> document_starts,
                        const void* qkv, const void* output, const float* log_sum_exp, const void* output_gradient,
                        void* qkv_gradient, const AttentionScratch& scratch);

// One query row against `length` cached positions: keys and values [length, kv_heads * head_dim].
void attention_cached(Dtype dtype, const AttentionShape& shape, const void* query, const void* keys, const void* values,
                      int64_t length, void* output);

}  // namespace sluice::models
