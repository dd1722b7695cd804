#include "models/layer_program.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "models/decoder_groups.h"
#include "models/ops/adapter.h"
#include "models/ops/attention.h"
#include "models/ops/gemm.h"
#include "models/ops/gradient_writer.h"
#include "models/ops/kernels.h"
#include "models/ops/scratch.h"

namespace sluice::models {
namespace {

// Order in which forward writes them. With q/k norm `qkv` is as the GEMM left it; without, it is rotated.
enum Slot { kQkv, kAttentionOutput, kLogSumExp, kResidual, kGateUp, kSlots };

// Element offsets inside the layer's group; -1: absent.
struct Offsets {
  int64_t qkv = -1, o = -1, gate_up = -1, down = -1;
  int64_t qkv_bias = -1, o_bias = -1, gate_up_bias = -1, down_bias = -1;
  int64_t input_norm = -1, post_norm = -1, q_norm = -1, k_norm = -1;
};

Offsets offsets_of(const ParameterGroup& group, int64_t layer) {
  const auto at = [&](const char* rest) {
    const ParameterTensor* tensor = find_tensor(group, layer_tensor_name(layer, rest));
    return tensor == nullptr ? int64_t{-1} : tensor->offset;
  };
  return {at("self_attn.q_proj.weight"), at("self_attn.o_proj.weight"),
          at("mlp.gate_proj.weight"),    at("mlp.down_proj.weight"),
          at("self_attn.q_proj.bias"),   at("self_attn.o_proj.bias"),
          at("mlp.gate_proj.bias"),      at("mlp.down_proj.bias"),
          at("input_layernorm.weight"),  at("post_attention_layernorm.weight"),
          at("self_attn.q_norm.weight"), at("self_attn.k_norm.weight")};
}

// The pieces of the workspace. What a slot holds is taken from the slot when it is there.
struct Pieces {
  void *normed_input, *raw_qkv, *qkv, *attention_output, *residual, *normed_residual, *gate_up, *activated;
  float* log_sum_exp;
  // backward only
  void *activated_gradient, *gate_up_gradient, *normed_gradient, *residual_gradient, *attention_gradient, *qkv_gradient;
  void* product;
  float* runs;
  AdapterScratch adapter;
};

class Layer final : public LayerProgram {
 public:
  explicit Layer(const LayerSetup& setup)
      : name_("layer." + std::to_string(setup.layer)),
        spec_(setup.spec),
        dtype_(setup.compute_dtype),
        k_(kernels(setup.compute_dtype)),
        groups_(setup.groups),
        layer_group_(*setup.layouts[0]),
        w_(offsets_of(*setup.layouts[0], setup.layer)),
        rope_(setup.rope) {
    attention_ = {spec_.heads, spec_.kv_heads, spec_.head_dim, spec_.sliding_window[static_cast<size_t>(setup.layer)],
                  1.0f / std::sqrt(static_cast<float>(spec_.head_dim))};
    if (setup.adapter) adapters_ = AdapterSet(spec_, *setup.adapter, *setup.layouts[1], setup.layer, dtype_);
    const auto c = static_cast<double>(spec_.hidden), f = static_cast<double>(spec_.ffn);
    const auto qkv = static_cast<double>(attention_.row()), heads = static_cast<double>(attention_width());
    slots_ = {{"qkv", dtype_, attention_.row(), 2 * c * qkv},
              {"attention_output", dtype_, attention_width(), 0},
              {"attention_logsumexp", Dtype::f32, spec_.heads, 0},
              {"residual", dtype_, spec_.hidden, 2 * heads * c},
              {"mlp_gate_up", dtype_, 2 * spec_.ffn, 4 * c * f}};
    const double gemm = 2 * (c * qkv + heads * c + 3 * c * f);
    const double adapter = adapters_.flops_per_token();
    // A frozen base has no weight gradients; its adapters have.
    cost_ = {gemm + adapter, (frozen_base() ? gemm : 2 * gemm) + 2 * adapter, 4 * heads};
  }

  const std::string& name() const override { return name_; }
  std::span<const int> groups() const override { return groups_; }
  std::span<const SlotSpec> slots() const override { return slots_; }
  BlockCost cost() const override { return cost_; }

  Bytes workspace_bytes(Pass pass, int64_t tokens_max, std::span<const uint8_t>) const override {
    Scratch measure;
    cut(measure, pass, tokens_max);
    return measure.used();
  }

  void forward(const ForwardArgs& args) const override {
    const MicroBatch& batch = *args.batch;
    Pieces p = pieces(args.workspace, Pass::forward, batch.tokens);
    take_slots(p, args.slots);
    const Steps run{this, batch, weights_of(args.parameters), adapter_weights_of(args.parameters)};
    run.project_qkv(args.input, p);
    run.rotate(p);
    run.attend(p);
    run.add_attention(args.input, p);
    run.expand(p);
    run.contract(p, args.output);
  }

  Bytes cache_bytes(int64_t positions_max) const override {
    return Bytes{2 * positions_max * kv_width() * size_of(dtype_)};
  }

  void forward_cached(const ForwardArgs& args, std::span<std::byte> cache, int64_t past,
                      int64_t positions_max) const override {
    const MicroBatch& batch = *args.batch;
    SLUICE_CHECK(past == 0 || batch.tokens == 1, "a cached sequence goes on one token at a time");
    SLUICE_CHECK(past + batch.tokens <= positions_max, "the cache is full");
    Pieces p = pieces(args.workspace, Pass::forward, batch.tokens);
    const Steps run{this, batch, weights_of(args.parameters), adapter_weights_of(args.parameters)};
    run.project_qkv(args.input, p);
    run.rotate(p);
    std::byte* keys = cache.data();
    std::byte* values = keys + positions_max * kv_width() * size_of(dtype_);
    append(p.qkv, attention_width(), batch.tokens, keys, past);
    append(p.qkv, attention_width() + kv_width(), batch.tokens, values, past);
    if (past == 0) {
      run.attend(p);
    } else {
      attention_cached(dtype_, attention_, p.qkv, keys, values, past + 1, p.attention_output);
    }
    run.add_attention(args.input, p);
    run.expand(p);
    run.contract(p, args.output);
  }

  void backward(const BackwardArgs& args) const override {
    const MicroBatch& batch = *args.batch;
    Pieces p = pieces(args.workspace, Pass::backward, batch.tokens);
    take_slots(p, args.slots);
    const Steps run{this, batch, weights_of(args.parameters), adapter_weights_of(args.parameters)};
    recover(run, args, p);
    GradientWriter base = base_writer(args, p);
    AdapterGradients adapters = adapter_gradients(args, p);
    backward_mlp(run, args, p, base, adapters);
    backward_attention(run, args, p, base, adapters);
  }

 private:
  int64_t attention_width() const { return spec_.heads * spec_.head_dim; }
  int64_t kv_width() const { return spec_.kv_heads * spec_.head_dim; }
  bool frozen_base() const { return !layer_group_.trainable; }
  Heads query_heads() const { return {attention_.row(), 0, spec_.heads, spec_.head_dim}; }
  Heads key_heads() const { return {attention_.row(), attention_width(), spec_.kv_heads, spec_.head_dim}; }
  Heads rotated_heads() const { return {attention_.row(), 0, spec_.heads + spec_.kv_heads, spec_.head_dim}; }
  float epsilon() const { return static_cast<float>(spec_.norm_epsilon); }

  const std::byte* weights_of(std::span<const void* const> parameters) const {
    return static_cast<const std::byte*>(parameters[0]);
  }
  const std::byte* adapter_weights_of(std::span<const void* const> parameters) const {
    return parameters.size() > 1 ? static_cast<const std::byte*>(parameters[1]) : nullptr;
  }

  Pieces cut(Scratch& s, Pass pass, int64_t n) const {
    Pieces p{};
    p.normed_input = s.take(dtype_, n * spec_.hidden);
    p.qkv = s.take(dtype_, n * attention_.row());
    p.raw_qkv = spec_.qk_norm ? s.take(dtype_, n * attention_.row()) : p.qkv;
    p.attention_output = s.take(dtype_, n * attention_width());
    p.log_sum_exp = s.take_as<float>(Dtype::f32, n * spec_.heads);
    p.residual = s.take(dtype_, n * spec_.hidden);
    p.normed_residual = s.take(dtype_, n * spec_.hidden);
    p.gate_up = s.take(dtype_, n * 2 * spec_.ffn);
    p.activated = s.take(dtype_, n * spec_.ffn);
    p.adapter = adapters_.cut(s, pass, n);
    if (pass == Pass::forward) return p;
    p.activated_gradient = s.take(dtype_, n * spec_.ffn);
    p.gate_up_gradient = s.take(dtype_, n * 2 * spec_.ffn);
    p.normed_gradient = s.take(dtype_, n * spec_.hidden);
    p.residual_gradient = s.take(dtype_, n * spec_.hidden);
    p.attention_gradient = s.take(dtype_, n * attention_width());
    p.qkv_gradient = s.take(dtype_, n * attention_.row());
    if (frozen_base()) return p;
    p.product = s.take(dtype_, spec_.hidden * std::max({attention_.row(), attention_width(), 2 * spec_.ffn}));
    p.runs = s.take_as<float>(Dtype::f32, runs_of(n) * std::max({spec_.hidden, attention_.row(), 2 * spec_.ffn}));
    return p;
  }
  Pieces pieces(std::span<std::byte> workspace, Pass pass, int64_t tokens) const {
    Scratch scratch(workspace);
    return cut(scratch, pass, tokens);
  }
  // Kept slots stand in for their pieces: forward writes there, backward finds them there.
  template <class Slots>
  void take_slots(Pieces& p, const Slots& slots) const {
    const auto take = [&](Slot slot, void*& piece) {
      if (slots[slot] != nullptr) piece = const_cast<void*>(static_cast<const void*>(slots[slot]));
    };
    take(kQkv, p.raw_qkv);
    if (!spec_.qk_norm) p.qkv = p.raw_qkv;
    take(kAttentionOutput, p.attention_output);
    if (slots[kLogSumExp] != nullptr)
      p.log_sum_exp = static_cast<float*>(const_cast<void*>(static_cast<const void*>(slots[kLogSumExp])));
    take(kResidual, p.residual);
    take(kGateUp, p.gate_up);
  }

  // The ops of forward, run by forward and by the recovery of slots alike.
  struct Steps {
    const Layer* layer;
    const MicroBatch& batch;
    const std::byte* weights;
    const std::byte* adapter_weights;

    const Layer& l() const { return *layer; }
    int64_t n() const { return batch.tokens; }
    const void* at(int64_t offset) const { return weights + offset * size_of(l().dtype_); }
    Matrix matrix(int64_t offset, int64_t rows, int64_t columns) const { return {at(offset), rows, columns}; }
    void adapt(Projection projection, const void* x, void* y, int64_t stride, int64_t column, const Pieces& p) const {
      l().adapters_.add(projection, batch, adapter_weights, x, y, stride, column, p.adapter);
    }

    void norm_input(const void* x, const Pieces& p) const {
      l().k_.rms_norm(const_cast<void*>(x), nullptr, at(l().w_.input_norm), p.normed_input, n(), l().spec_.hidden,
                      l().epsilon());
    }
    void project_qkv(const void* x, const Pieces& p) const {
      norm_input(x, p);
      const int64_t row = l().attention_.row();
      multiply_by_transposed(l().dtype_, {p.normed_input, n(), l().spec_.hidden},
                             matrix(l().w_.qkv, row, l().spec_.hidden), p.raw_qkv);
      if (l().w_.qkv_bias >= 0) l().k_.add_bias(p.raw_qkv, at(l().w_.qkv_bias), n(), row);
      adapt(Projection::q, p.normed_input, p.raw_qkv, row, 0, p);
      adapt(Projection::k, p.normed_input, p.raw_qkv, row, l().attention_width(), p);
      adapt(Projection::v, p.normed_input, p.raw_qkv, row, l().attention_width() + l().kv_width(), p);
      if (!l().spec_.qk_norm) rotate_in_place(p.qkv, 1);
    }
    // Without q/k norm the slot is rotated already.
    void rotate(const Pieces& p) const {
      if (!l().spec_.qk_norm) return;
      std::memcpy(p.qkv, p.raw_qkv, static_cast<size_t>(n() * l().attention_.row() * size_of(l().dtype_)));
      l().k_.head_norm(p.qkv, at(l().w_.q_norm), p.qkv, l().query_heads(), n(), l().epsilon());
      l().k_.head_norm(p.qkv, at(l().w_.k_norm), p.qkv, l().key_heads(), n(), l().epsilon());
      rotate_in_place(p.qkv, 1);
    }
    void rotate_in_place(void* qkv, float direction) const {
      const int32_t last = *std::max_element(batch.positions.begin(), batch.positions.end());
      l().k_.rope(qkv, l().rotated_heads(), batch.positions.data(), l().rope_->angles(last + 1), direction, n());
    }
    void attend(const Pieces& p) const {
      attention(l().dtype_, l().attention_, batch.document_starts, p.qkv, p.attention_output, p.log_sum_exp);
    }
    // residual = x + o(attention); then its norm.
    void add_attention(const void* x, const Pieces& p) const {
      const int64_t c = l().spec_.hidden, width = l().attention_width();
      multiply_by_transposed(l().dtype_, {p.attention_output, n(), width}, matrix(l().w_.o, c, width), p.residual);
      if (l().w_.o_bias >= 0) l().k_.add_bias(p.residual, at(l().w_.o_bias), n(), c);
      adapt(Projection::o, p.attention_output, p.residual, c, 0, p);
      l().k_.rms_norm(p.residual, x, at(l().w_.post_norm), p.normed_residual, n(), c, l().epsilon());
    }
    void norm_residual(const Pieces& p) const {
      l().k_.rms_norm(p.residual, nullptr, at(l().w_.post_norm), p.normed_residual, n(), l().spec_.hidden,
                      l().epsilon());
    }
    void expand(const Pieces& p) const {
      const int64_t c = l().spec_.hidden, f = l().spec_.ffn;
      multiply_by_transposed(l().dtype_, {p.normed_residual, n(), c}, matrix(l().w_.gate_up, 2 * f, c), p.gate_up);
      if (l().w_.gate_up_bias >= 0) l().k_.add_bias(p.gate_up, at(l().w_.gate_up_bias), n(), 2 * f);
      adapt(Projection::gate, p.normed_residual, p.gate_up, 2 * f, 0, p);
      adapt(Projection::up, p.normed_residual, p.gate_up, 2 * f, f, p);
    }
    void contract(const Pieces& p, void* output) const {
      const int64_t c = l().spec_.hidden, f = l().spec_.ffn;
      l().k_.swiglu(p.gate_up, p.activated, n(), f);
      multiply_by_transposed(l().dtype_, {p.activated, n(), f}, matrix(l().w_.down, c, f), output);
      if (l().w_.down_bias >= 0) l().k_.add_bias(output, at(l().w_.down_bias), n(), c);
      adapt(Projection::down, p.activated, output, c, 0, p);
      l().k_.add(output, p.residual, output, n() * c);
    }
  };

  // Runs the fewest forward ops that bring back what backward reads.
  void recover(const Steps& run, const BackwardArgs& args, const Pieces& p) const {
    if (args.slots[kQkv] == nullptr) {
      run.project_qkv(args.input, p);
    } else {
      run.norm_input(args.input, p);
    }
    run.rotate(p);
    if (args.slots[kAttentionOutput] == nullptr || args.slots[kLogSumExp] == nullptr) run.attend(p);
    if (args.slots[kResidual] == nullptr) {
      run.add_attention(args.input, p);
    } else {
      run.norm_residual(p);
    }
    if (args.slots[kGateUp] == nullptr) run.expand(p);
  }

  GradientWriter base_writer(const BackwardArgs& args, const Pieces& p) const {
    return {layer_group_,
            frozen_base() ? nullptr : args.gradients[0],
            args.gradient_dtype,
            dtype_,
            args.accumulate[0] != 0 ? Store::accumulate : Store::overwrite,
            p.product};
  }
  AdapterGradients adapter_gradients(const BackwardArgs& args, const Pieces& p) const {
    if (args.gradients.size() < 2) return {};
    return adapters_.gradients(args.gradients[1], args.gradient_dtype, args.accumulate[1] != 0, p.adapter);
  }
  void bias_gradient(GradientWriter& base, const Pieces& p, const void* dy, int64_t rows, int64_t width,
                     int64_t offset) const {
    if (offset < 0 || !base.wanted()) return;
    k_.column_runs(dy, p.runs, rows, width);
    base.runs(p.runs, runs_of(rows), width, offset);
  }

  void backward_mlp(const Steps& run, const BackwardArgs& args, const Pieces& p, GradientWriter& base,
                    AdapterGradients& adapters) const {
    const int64_t n = run.n(), c = spec_.hidden, f = spec_.ffn;
    const void* dy = args.output_gradient;
    multiply(dtype_, {dy, n, c}, run.matrix(w_.down, c, f), p.activated_gradient);
    if (adapters_.targets(Projection::down)) k_.swiglu(p.gate_up, p.activated, n, f);
    adapters_.backward(Projection::down, *args.batch, run.adapter_weights, p.activated, dy, c, 0, p.activated_gradient,
                       adapters, p.adapter);
    k_.swiglu_backward(p.gate_up, p.activated_gradient, p.gate_up_gradient, p.activated, n, f);
    base.product({dy, n, c}, {p.activated, n, f}, w_.down);
    bias_gradient(base, p, dy, n, c, w_.down_bias);

    multiply(dtype_, {p.gate_up_gradient, n, 2 * f}, run.matrix(w_.gate_up, 2 * f, c), p.normed_gradient);
    adapters_.backward(Projection::gate, *args.batch, run.adapter_weights, p.normed_residual, p.gate_up_gradient, 2 * f,
                       0, p.normed_gradient, adapters, p.adapter);
    adapters_.backward(Projection::up, *args.batch, run.adapter_weights, p.normed_residual, p.gate_up_gradient, 2 * f,
                       f, p.normed_gradient, adapters, p.adapter);
    base.product({p.gate_up_gradient, n, 2 * f}, {p.normed_residual, n, c}, w_.gate_up);
    bias_gradient(base, p, p.gate_up_gradient, n, 2 * f, w_.gate_up_bias);

    k_.rms_norm_backward(p.residual, run.at(w_.post_norm), p.normed_gradient, dy, p.residual_gradient, p.runs, n, c,
                         epsilon());
    base.runs(p.runs, runs_of(n), c, w_.post_norm);
  }

  void backward_attention(const Steps& run, const BackwardArgs& args, const Pieces& p, GradientWriter& base,
                          AdapterGradients& adapters) const {
    const int64_t n = run.n(), c = spec_.hidden, width = attention_width(), row = attention_.row();
    const void* dy = p.residual_gradient;
    multiply(dtype_, {dy, n, c}, run.matrix(w_.o, c, width), p.attention_gradient);
    adapters_.backward(Projection::o, *args.batch, run.adapter_weights, p.attention_output, dy, c, 0,
                       p.attention_gradient, adapters, p.adapter);
    base.product({dy, n, c}, {p.attention_output, n, width}, w_.o);
    bias_gradient(base, p, dy, n, c, w_.o_bias);

    attention_backward(dtype_, attention_, args.batch->document_starts, p.qkv, p.attention_output, p.log_sum_exp,
                       p.attention_gradient, p.qkv_gradient);
    run.rotate_in_place(p.qkv_gradient, -1);
    if (spec_.qk_norm) backward_qk_norm(run, p, base);

    base.product({p.qkv_gradient, n, row}, {p.normed_input, n, c}, w_.qkv);
    bias_gradient(base, p, p.qkv_gradient, n, row, w_.qkv_bias);
    const bool wants_input = args.input_gradient != nullptr;
    if (wants_input || base.wanted())
      multiply(dtype_, {p.qkv_gradient, n, row}, run.matrix(w_.qkv, row, c), p.normed_gradient);
    void* into = wants_input || base.wanted() ? p.normed_gradient : nullptr;
    for (const auto& [projection, column] : {std::pair{Projection::q, int64_t{0}}, std::pair{Projection::k, width},
                                             std::pair{Projection::v, width + kv_width()}})
      adapters_.backward(projection, *args.batch, run.adapter_weights, p.normed_input, p.qkv_gradient, row, column,
                         into, adapters, p.adapter);
    if (into == nullptr) return;
    void* dx = wants_input ? args.input_gradient : p.normed_gradient;
    k_.rms_norm_backward(args.input, run.at(w_.input_norm), p.normed_gradient, p.residual_gradient, dx, p.runs, n, c,
                         epsilon());
    base.runs(p.runs, runs_of(n), c, w_.input_norm);
  }
  void backward_qk_norm(const Steps& run, const Pieces& p, GradientWriter& base) const {
    const int64_t n = run.n();
    for (const auto& [heads, offset] : {std::pair{query_heads(), w_.q_norm}, std::pair{key_heads(), w_.k_norm}}) {
      k_.head_norm_backward(p.raw_qkv, run.at(offset), p.qkv_gradient, p.qkv_gradient, p.runs, heads, n, epsilon());
      base.runs(p.runs, runs_of(n), spec_.head_dim, offset);
    }
  }

  void append(const void* qkv, int64_t column, int64_t tokens, std::byte* cache, int64_t past) const {
    const int64_t each = size_of(dtype_);
    for (int64_t token = 0; token < tokens; ++token)
      std::memcpy(cache + (past + token) * kv_width() * each,
                  static_cast<const std::byte*>(qkv) + (token * attention_.row() + column) * each,
                  static_cast<size_t>(kv_width() * each));
  }

  std::string name_;
  DecoderSpec spec_;
  Dtype dtype_;
  const Kernels& k_;
  std::vector<int> groups_;
  ParameterGroup layer_group_;
  Offsets w_;
  std::shared_ptr<RopeTable> rope_;
  AttentionShape attention_;
  AdapterSet adapters_;
  std::vector<SlotSpec> slots_;
  BlockCost cost_;
};

}  // namespace

std::unique_ptr<LayerProgram> make_layer_program(const LayerSetup& setup) { return std::make_unique<Layer>(setup); }

}  // namespace sluice::models
