// How a layer's workspace is cut: pieces that are not needed at the same time share memory, and what lies in a kept
// slot takes none.
#pragma once

#include <cstdint>
#include <span>

#include "models/ops/adapter.h"
#include "models/ops/ops.h"

namespace sluice::models {

// Slots of a layer, in the order in which forward writes them. With q/k norm `qkv` is as the GEMM left it; without, it
// is rotated.
enum LayerSlot { kQkv, kAttentionOutput, kLogSumExp, kResidual, kGateUp, kLayerSlots };

// Elements per token, unless said.
struct LayerSizes {
  Dtype dtype = Dtype::f32;
  AttentionShape attention;
  int64_t hidden = 0, ffn = 0;
  bool qk_norm = false;    // rotated q|k|v lie beside the slot
  bool trainable = false;  // weight gradients are wanted
  int64_t expanded = 0;    // in all: of weights in low bits
  int64_t attention_width() const { return attention.heads * attention.head_dim; }
  int64_t kv_width() const { return attention.kv_heads * attention.head_dim; }
};

struct LayerPieces {
  void *raw_qkv, *qkv, *attention_output, *residual, *gate_up;  // slots, and q|k|v after norm and rotation
  float* log_sum_exp;
  void *normed_input, *normed_residual, *activated;
  AttentionScratch attention;  // of the pass at hand
  AdapterScratch adapter;
  void* expanded;  // a piece of a matrix that is stored in low bits
  // Backward only.
  AttentionScratch recovered_attention;
  void *normed_input_again, *residual_gradient, *normed_gradient, *activated_gradient, *gate_up_gradient;
  void *attention_gradient, *qkv_gradient;
  void* product;  // a weight gradient before it is stored
  float* runs;    // sums over runs of tokens
};

// `kept`: one per slot; empty: none is.
LayerPieces cut_layer(const Ops& ops, Scratch& scratch, Pass pass, const LayerSizes& sizes, const AdapterSet& adapters,
                      int64_t tokens, std::span<const uint8_t> kept);

// Attention gives its output and its log-sum-exp together: one without the other is as good as neither.
bool has_attention(std::span<const uint8_t> kept);

}  // namespace sluice::models
