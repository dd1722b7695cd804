#include "models/layer_pieces.h"

#include <algorithm>

namespace sluice::models {
namespace {

struct Cutter {
  const Ops& ops;
  Scratch& scratch;
  const LayerSizes& s;
  const AdapterSet& adapters;
  int64_t n;
  std::span<const uint8_t> kept;
  LayerPieces p{};

  bool has(LayerSlot slot) const { return !kept.empty() && kept[slot] != 0; }
  void* take(int64_t per_token) { return scratch.take(s.dtype, n * per_token); }

  // q|k|v and what attention makes of them.
  void cut_attention_slots() {
    p.raw_qkv = has(kQkv) ? nullptr : take(s.attention.row());
    p.qkv = s.qk_norm ? take(s.attention.row()) : p.raw_qkv;
    if (has_attention(kept)) return;
    p.attention_output = take(s.attention_width());
    p.log_sum_exp = scratch.take_as<float>(Dtype::f32, n * s.attention.heads);
  }

  void cut_forward() {
    if (!has(kResidual)) p.residual = take(s.hidden);
    p.adapter = adapters.cut(scratch, Pass::forward, n, p.expanded);
    const int64_t phase = scratch.mark();
    p.normed_input = take(s.hidden);
    cut_attention_slots();
    p.attention = ops.cut_attention(scratch, Pass::forward, s.dtype, s.attention, n);
    scratch.rewind(phase);
    p.normed_residual = take(s.hidden);
    if (!has(kGateUp)) p.gate_up = take(2 * s.ffn);
    p.activated = take(s.ffn);
  }

  // Three phases one after the other: attention is recovered, the MLP goes backward, attention goes backward.
  void cut_backward() {
    cut_attention_slots();
    if (!has(kResidual)) p.residual = take(s.hidden);
    p.residual_gradient = take(s.hidden);
    p.normed_gradient = take(s.hidden);
    p.adapter = adapters.cut(scratch, Pass::backward, n, p.expanded);
    if (s.trainable) {
      const int64_t widest = std::max({s.attention.row(), s.attention_width(), 2 * s.ffn});
      p.product = scratch.take(s.dtype, s.hidden * widest);
      p.runs = scratch.take_as<float>(Dtype::f32, runs_of(n) * std::max(s.hidden, widest));
    }
    const int64_t phase = scratch.mark();
    p.normed_input = take(s.hidden);
    if (!has_attention(kept))
      p.recovered_attention = ops.cut_attention(scratch, Pass::forward, s.dtype, s.attention, n);
    scratch.rewind(phase);
    p.normed_residual = take(s.hidden);
    if (!has(kGateUp)) p.gate_up = take(2 * s.ffn);
    // A kept slot must stay as it is; a recovered one is not read again.
    p.gate_up_gradient = has(kGateUp) ? take(2 * s.ffn) : p.gate_up;
    p.activated = take(s.ffn);
    p.activated_gradient = take(s.ffn);
    scratch.rewind(phase);
    p.normed_input_again = take(s.hidden);
    p.attention_gradient = take(s.attention_width());
    p.qkv_gradient = take(s.attention.row());
    p.attention = ops.cut_attention(scratch, Pass::backward, s.dtype, s.attention, n);
  }
};

}  // namespace

bool has_attention(std::span<const uint8_t> kept) {
  return !kept.empty() && kept[kAttentionOutput] != 0 && kept[kLogSumExp] != 0;
}

LayerPieces cut_layer(const Ops& ops, Scratch& scratch, Pass pass, const LayerSizes& sizes, const AdapterSet& adapters,
                      int64_t tokens, std::span<const uint8_t> kept) {
  Cutter cutter{ops, scratch, sizes, adapters, tokens, kept};
  if (sizes.expanded > 0) cutter.p.expanded = scratch.take(sizes.dtype, sizes.expanded);
  pass == Pass::forward ? cutter.cut_forward() : cutter.cut_backward();
  return cutter.p;
}

}  // namespace sluice::models
