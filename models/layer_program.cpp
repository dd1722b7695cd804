#include "models/layer_program.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "models/decoder_groups.h"
#include "models/layer_matrix.h"
#include "models/layer_pieces.h"
#include "models/ops/gradient_writer.h"

namespace sluice::models {
namespace {

// Element offsets inside the layer's group; -1: absent.
struct Offsets {
  int64_t qkv_bias = -1, o_bias = -1, gate_up_bias = -1, down_bias = -1;
  int64_t input_norm = -1, post_norm = -1, q_norm = -1, k_norm = -1;
};

Offsets offsets_of(const ParameterGroup& group, int64_t layer) {
  const auto at = [&](const char* rest) {
    const ParameterTensor* tensor = find_tensor(group, layer_tensor_name(layer, rest));
    return tensor == nullptr ? int64_t{-1} : tensor->offset;
  };
  return {at("self_attn.q_proj.bias"),   at("self_attn.o_proj.bias"),  at("mlp.gate_proj.bias"),
          at("mlp.down_proj.bias"),      at("input_layernorm.weight"), at("post_attention_layernorm.weight"),
          at("self_attn.q_norm.weight"), at("self_attn.k_norm.weight")};
}

// What the layer multiplies with.
struct Matrices {
  LayerMatrix qkv, o, gate_up, down;
  std::array<const LayerMatrix*, 4> all() const { return {&qkv, &o, &gate_up, &down}; }
};

Matrices matrices_of(const LayerSetup& setup) {
  const std::vector<ProjectionShape> shapes = layer_projections(setup.spec);
  const auto matrix = [&](std::initializer_list<Projection> stacked) {
    std::vector<LayerMatrix::Part> parts;
    for (const Projection one : stacked) {
      const ProjectionShape& shape = shapes[static_cast<size_t>(one)];
      parts.push_back(
          {layer_tensor_name(setup.layer, std::string(shape.module_path) + ".weight"), shape.out, shape.in});
    }
    return LayerMatrix(*setup.layouts[0], setup.compute_dtype, parts, setup.low_bits);
  };
  using enum Projection;
  return {matrix({q, k, v}), matrix({o}), matrix({gate, up}), matrix({down})};
}

// Attention of a document of 512 tokens, for slots that cost attention to recompute: how long documents are is known
// to nobody who asks a program for its cost.
constexpr double kNominalAttended = 256;

using Parameters = std::span<const void* const>;

// Projections that one product makes, and where each one's output lies in a row.
using Family = std::vector<Adapted>;

class Layer final : public LayerProgram {
 public:
  explicit Layer(const LayerSetup& setup)
      : name_("layer." + std::to_string(setup.layer)),
        spec_(setup.spec),
        dtype_(setup.compute_dtype),
        ops_(*setup.ops),
        k_(ops_.kernels(setup.compute_dtype)),
        groups_(setup.groups),
        layer_group_(*setup.layouts[0]),
        unit_(layer_group_.weight_bytes_per_element(dtype_)),
        w_(offsets_of(*setup.layouts[0], setup.layer)),
        m_(matrices_of(setup)),
        rope_(setup.rope) {
    const AttentionShape attention{spec_.heads, spec_.kv_heads, spec_.head_dim,
                                   spec_.sliding_window[static_cast<size_t>(setup.layer)],
                                   1.0f / std::sqrt(static_cast<float>(spec_.head_dim))};
    sizes_ = {dtype_, attention, spec_.hidden, spec_.ffn, spec_.qk_norm, layer_group_.trainable, 0};
    if (setup.adapter) adapters_ = AdapterSet(setup);
    sizes_.expanded = adapters_.magnitudes().expanded_elements();
    for (const LayerMatrix* matrix : m_.all())
      sizes_.expanded = std::max(sizes_.expanded, matrix->expanded_elements(ops_));
    set_costs();
  }

  const std::string& name() const override { return name_; }
  std::span<const int> groups() const override { return groups_; }
  std::span<const SlotSpec> slots() const override { return slots_; }
  BlockCost cost() const override { return cost_; }

  Bytes workspace_bytes(Pass pass, int64_t tokens_max, std::span<const uint8_t> kept) const override {
    Scratch measure;
    cut_layer(ops_, measure, pass, sizes_, adapters_, tokens_max, kept);
    return measure.used();
  }

  void forward(const ForwardArgs& args) const override {
    const LayerPieces p = forward_pieces(args);
    const Steps run = steps(*args.batch, args.parameters);
    adapters_.magnitudes().prepare(run.weights, p.adapter.magnitude);
    run.project_qkv(args.input, p);
    run.rotate(p);
    run.attend(p, p.attention);
    run.finish(args, p);
  }

  // Keys, values, then the magnitudes' factors: weights stand still, and norms of all rows would cost each token more
  // than its products.
  Bytes cache_bytes(int64_t positions_max) const override {
    return factors_at(positions_max) + adapters_.magnitudes().factor_bytes();
  }

  void forward_cached(const ForwardArgs& args, std::span<std::byte> cache, int64_t past,
                      int64_t positions_max) const override {
    const MicroBatch& batch = *args.batch;
    SLUICE_CHECK(past == 0 || batch.tokens == 1, "a cached sequence goes on one token at a time");
    SLUICE_CHECK(past + batch.tokens <= positions_max, "the cache is full");
    LayerPieces p = forward_pieces(args);
    const Steps run = steps(batch, args.parameters);
    p.adapter.magnitude.factors = reinterpret_cast<float*>(cache.data() + factors_at(positions_max).count);
    if (past == 0) adapters_.magnitudes().prepare(run.weights, p.adapter.magnitude);
    run.project_qkv(args.input, p);
    run.rotate(p);
    std::byte* keys = cache.data();
    std::byte* values = keys + positions_max * sizes_.kv_width() * size_of(dtype_);
    append(p.qkv, sizes_.attention_width(), batch.tokens, keys, past);
    append(p.qkv, sizes_.attention_width() + sizes_.kv_width(), batch.tokens, values, past);
    if (past == 0) {
      run.attend(p, p.attention);
    } else {
      attention_cached(dtype_, sizes_.attention, p.qkv, keys, values, past + 1, p.attention_output);
    }
    run.finish(args, p);
  }

  void backward(const BackwardArgs& args) const override {
    const LayerPieces p = backward_pieces(args);
    const Steps run = steps(*args.batch, args.parameters);
    adapters_.magnitudes().prepare(run.weights, p.adapter.magnitude);
    recover(run, args, p);
    GradientWriter base = base_writer(args, p);
    AdapterGradients adapters = adapter_gradients(args, p);
    backward_mlp(run, args, p, base, adapters);
    backward_attention(run, args, p, base, adapters);
  }

 private:
  bool frozen_base() const { return !layer_group_.trainable; }
  bool adapts_any(std::initializer_list<Projection> projections) const {
    return std::any_of(projections.begin(), projections.end(), [&](Projection p) { return adapters_.targets(p); });
  }
  Heads query_heads() const { return {sizes_.attention.row(), 0, spec_.heads, spec_.head_dim}; }
  Heads key_heads() const { return {sizes_.attention.row(), sizes_.attention_width(), spec_.kv_heads, spec_.head_dim}; }
  Family qkv_family() const {
    const int64_t row = sizes_.attention.row(), width = sizes_.attention_width();
    return {
        {Projection::q, {row, 0}}, {Projection::k, {row, width}}, {Projection::v, {row, width + sizes_.kv_width()}}};
  }
  Family o_family() const { return {{Projection::o, {spec_.hidden, 0}}}; }
  Family gate_up_family() const {
    return {{Projection::gate, {2 * spec_.ffn, 0}}, {Projection::up, {2 * spec_.ffn, spec_.ffn}}};
  }
  Family down_family() const { return {{Projection::down, {spec_.hidden, 0}}}; }
  Heads rotated_heads() const { return {sizes_.attention.row(), 0, spec_.heads + spec_.kv_heads, spec_.head_dim}; }
  float epsilon() const { return static_cast<float>(spec_.norm_epsilon); }
  Bytes factors_at(int64_t positions_max) const {
    return Bytes{round_up(2 * positions_max * sizes_.kv_width() * size_of(dtype_), kTensorAlignmentBytes)};
  }

  void set_costs() {
    const auto c = static_cast<double>(spec_.hidden), f = static_cast<double>(spec_.ffn);
    const auto qkv = static_cast<double>(sizes_.attention.row());
    const auto width = static_cast<double>(sizes_.attention_width());
    const double gemm = 2 * (c * qkv + width * c + 3 * c * f);
    const double adapter = adapters_.flops_per_token();
    cost_.forward_flops_per_token = gemm + adapter;
    // A frozen base has no weight gradients; its adapters have, after recomputing their low-rank activations.
    cost_.backward_flops_per_token = (frozen_base() ? gemm : 2 * gemm) + 2.5 * adapter;
    cost_.attention_flops_per_token_per_position = 4 * width;
    cost_.heads = spec_.heads;
    cost_.head_dim = spec_.head_dim;
    cost_.attention_slot = kAttentionOutput;
    for (const LinearCost& linear : {LinearCost{spec_.hidden, sizes_.attention.row(), !frozen_base(), 0, kQkv},
                                     LinearCost{sizes_.attention_width(), spec_.hidden, !frozen_base(), 0, kResidual},
                                     LinearCost{spec_.hidden, 2 * spec_.ffn, !frozen_base(), 0, kGateUp},
                                     LinearCost{spec_.ffn, spec_.hidden, !frozen_base(), 0, -1}})
      cost_.linears.push_back(linear);
    for (size_t i = 0; i < m_.all().size(); ++i) cost_.linears[i].expanded_bytes = m_.all()[i]->expanded_bytes();
    cost_.gradient_elements = (frozen_base() ? 0 : layer_group_.elements) + adapters_.elements();
    set_elements(c, qkv, f);
    adapters_.list({kQkv, kQkv, kQkv, kResidual, kGateUp, kGateUp, -1}, cost_);
    slots_ = {{"qkv", dtype_, sizes_.attention.row(), 2 * c * qkv, 2 * c + rotated_elements()},
              {"attention_output", dtype_, sizes_.attention_width(), 4 * width * kNominalAttended},
              // Comes with attention_output.
              {"attention_logsumexp", Dtype::f32, spec_.heads, 0},
              {"residual", dtype_, spec_.hidden, 2 * width * c, 2 * c},
              {"mlp_gate_up", dtype_, 2 * spec_.ffn, 4 * c * f}};
  }
  // Norm of queries and keys and rotation in place, each reading and writing.
  double rotated_elements() const {
    const auto row = static_cast<double>(sizes_.attention.row());
    const auto rotated = static_cast<double>((spec_.heads + spec_.kv_heads) * spec_.head_dim);
    return spec_.qk_norm ? 2 * row + 4 * rotated : 2 * rotated;
  }
  void set_elements(double c, double qkv, double f) {
    const double biases = (w_.qkv_bias >= 0 ? 2 * qkv : 0) + (w_.o_bias >= 0 ? 2 * c : 0) +
                          (w_.gate_up_bias >= 0 ? 4 * f : 0) + (w_.down_bias >= 0 ? 2 * c : 0);
    // Two norms (the second adds the residual), the gate, the last addition.
    cost_.forward_elements_per_token = (2 + 4 + 3) * c + rotated_elements() + 3 * f + biases;
    // Two norms again and backward, the gate backward.
    cost_.backward_elements_per_token = 2 * (2 + 4) * c + rotated_elements() + 6 * f + biases / 2;
  }

  LayerPieces forward_pieces(const ForwardArgs& args) const {
    Scratch scratch(args.workspace);
    LayerPieces p = cut_layer(ops_, scratch, Pass::forward, sizes_, adapters_, args.batch->tokens, present(args.slots));
    use_slots(p, args.slots);
    return p;
  }
  LayerPieces backward_pieces(const BackwardArgs& args) const {
    Scratch scratch(args.workspace);
    const std::vector<uint8_t> kept = present(args.slots);
    LayerPieces p = cut_layer(ops_, scratch, Pass::backward, sizes_, adapters_, args.batch->tokens, kept);
    std::vector<void*> slots;
    for (const void* slot : args.slots) slots.push_back(const_cast<void*>(slot));  // read only from here on
    if (!has_attention(kept)) slots[kAttentionOutput] = slots[kLogSumExp] = nullptr;
    use_slots(p, slots);
    return p;
  }
  template <class Pointer>
  static std::vector<uint8_t> present(std::span<Pointer> slots) {
    std::vector<uint8_t> kept;
    for (const void* slot : slots) kept.push_back(slot != nullptr);
    return kept;
  }
  // Kept slots stand in for their pieces: forward writes there, backward finds them there.
  void use_slots(LayerPieces& p, std::span<void* const> slots) const {
    if (slots.empty()) return;
    const auto use = [&](LayerSlot slot, void*& piece) {
      if (slots[slot] != nullptr) piece = slots[slot];
    };
    use(kQkv, p.raw_qkv);
    if (!spec_.qk_norm) p.qkv = p.raw_qkv;
    use(kAttentionOutput, p.attention_output);
    if (slots[kLogSumExp] != nullptr) p.log_sum_exp = static_cast<float*>(slots[kLogSumExp]);
    use(kResidual, p.residual);
    use(kGateUp, p.gate_up);
  }

  // The ops of forward, run by forward and by the recovery of slots alike.
  struct Steps {
    const Layer& l;
    const MicroBatch& batch;
    LayerWeights weights;

    int64_t n() const { return batch.tokens; }
    const void* at(int64_t offset) const { return weights.base + offset * l.unit_; }
    // y [N, out] = x w^T + bias, x [N, in], w [out, in]: of a family of projections.
    void linear(const void* x, const LayerMatrix& w, int64_t bias, const Family& family, void* y,
                const LayerPieces& p) const {
      w.multiply_by_transposed(l.ops_, weights.base, {x, n(), w.in()}, y, p.expanded);
      for (const Adapted& adapted : family) l.adapters_.add(adapted, batch, weights, x, y, p.adapter);
      if (bias >= 0) l.k_.add_bias(y, at(bias), n(), w.out());
    }
    // The norm reads x only: nothing is added to it.
    void norm(const void* x, int64_t weight, void* y) const {
      l.k_.rms_norm(const_cast<void*>(x), nullptr, at(weight), y, n(), l.spec_.hidden, l.epsilon());
    }

    void project_qkv(const void* x, const LayerPieces& p) const {
      norm(x, l.w_.input_norm, p.normed_input);
      linear(p.normed_input, l.m_.qkv, l.w_.qkv_bias, l.qkv_family(), p.raw_qkv, p);
      if (!l.spec_.qk_norm) rotate_in_place(p.qkv, 1);
    }
    // Without q/k norm the slot is rotated already.
    void rotate(const LayerPieces& p) const {
      if (!l.spec_.qk_norm) return;
      l.ops_.copy(p.qkv, p.raw_qkv, n() * l.sizes_.attention.row() * size_of(l.dtype_));
      l.k_.head_norm(p.qkv, at(l.w_.q_norm), p.qkv, l.query_heads(), n(), l.epsilon());
      l.k_.head_norm(p.qkv, at(l.w_.k_norm), p.qkv, l.key_heads(), n(), l.epsilon());
      rotate_in_place(p.qkv, 1);
    }
    void rotate_in_place(void* qkv, float direction) const {
      const int32_t last = *std::max_element(batch.positions.begin(), batch.positions.end());
      l.k_.rope(qkv, l.rotated_heads(), l.ops_.numbers(batch).positions, l.ops_.angles(*l.rope_, last + 1), direction,
                n());
    }
    void attend(const LayerPieces& p, const AttentionScratch& scratch) const {
      l.ops_.attention(l.dtype_, l.sizes_.attention, batch, p.qkv, p.attention_output, p.log_sum_exp, scratch);
    }
    // residual = x + o(attention); then its norm.
    void add_attention(const void* x, const LayerPieces& p) const {
      const int64_t c = l.spec_.hidden;
      linear(p.attention_output, l.m_.o, l.w_.o_bias, l.o_family(), p.residual, p);
      l.k_.rms_norm(p.residual, x, at(l.w_.post_norm), p.normed_residual, n(), c, l.epsilon());
    }
    void expand(const LayerPieces& p) const {
      linear(p.normed_residual, l.m_.gate_up, l.w_.gate_up_bias, l.gate_up_family(), p.gate_up, p);
    }
    void contract(const LayerPieces& p, void* output) const {
      l.k_.swiglu(p.gate_up, p.activated, n(), l.spec_.ffn);
      linear(p.activated, l.m_.down, l.w_.down_bias, l.down_family(), output, p);
      l.k_.add(output, p.residual, output, n() * l.spec_.hidden);
    }
    void finish(const ForwardArgs& args, const LayerPieces& p) const {
      add_attention(args.input, p);
      expand(p);
      contract(p, args.output);
    }
  };

  Steps steps(const MicroBatch& batch, Parameters parameters) const {
    return {*this,
            batch,
            {static_cast<const std::byte*>(parameters[0]),
             parameters.size() > 1 ? static_cast<const std::byte*>(parameters[1]) : nullptr}};
  }

  // Runs the fewest forward ops that bring back what backward reads.
  void recover(const Steps& run, const BackwardArgs& args, const LayerPieces& p) const {
    const std::vector<uint8_t> kept = present(args.slots);
    if (!kept[kQkv]) run.project_qkv(args.input, p);
    run.rotate(p);
    if (!has_attention(kept)) run.attend(p, p.recovered_attention);
    if (!kept[kResidual]) {
      run.add_attention(args.input, p);
    } else if (!kept[kGateUp] || !frozen_base() || adapts_any({Projection::gate, Projection::up})) {
      run.norm(p.residual, w_.post_norm, p.normed_residual);
    }
    if (!kept[kGateUp]) run.expand(p);
  }

  GradientWriter base_writer(const BackwardArgs& args, const LayerPieces& p) const {
    GradientTarget target = target_of(args, 0);
    if (frozen_base()) target.data = nullptr;
    return {ops_, layer_group_, target, dtype_, p.product};
  }
  AdapterGradients adapter_gradients(const BackwardArgs& args, const LayerPieces& p) const {
    if (args.gradients.size() < 2) return {};
    return adapters_.gradients(target_of(args, 1), p.adapter);
  }

  // Of y = x w^T + bias: dw and dbias.
  void linear_gradients(GradientWriter& base, const LayerPieces& p, Matrix dy, Matrix x, const LayerMatrix& w,
                        int64_t bias) const {
    base.product(dy, x, w.offset());
    if (bias < 0 || !base.wanted()) return;
    k_.column_runs(dy.data, p.runs, dy.rows, dy.columns);
    base.runs(p.runs, runs_of(dy.rows), dy.columns, bias);
  }

  // dx = dy w with the adapters' part, and their gradients. dx null: these alone. `scaled`: room for dy, or dy where it
  // is not read again.
  void input_gradient(const Steps& run, const LayerPieces& p, const LayerMatrix& w, const Family& family, const void* x,
                      const void* dy, void* scaled, void* dx, AdapterGradients& adapters) const {
    const void* through = adapters_.enter_backward(family, run.batch, run.weights, x, dy, scaled, adapters, p.adapter);
    if (dx != nullptr) w.multiply(ops_, run.weights.base, {through, run.n(), w.out()}, dx, p.expanded);
    for (const Adapted& adapted : family)
      adapters_.backward(adapted, run.batch, run.weights, x, through, dx, adapters, p.adapter);
  }

  void backward_mlp(const Steps& run, const BackwardArgs& args, const LayerPieces& p, GradientWriter& base,
                    AdapterGradients& adapters) const {
    const int64_t n = run.n(), c = spec_.hidden, f = spec_.ffn;
    const void* dy = args.output_gradient;
    if (adapters_.targets(Projection::down)) k_.swiglu(p.gate_up, p.activated, n, f);
    input_gradient(run, p, m_.down, down_family(), p.activated, dy, p.normed_gradient, p.activated_gradient, adapters);
    k_.swiglu_backward(p.gate_up, p.activated_gradient, p.gate_up_gradient, p.activated, n, f);
    linear_gradients(base, p, {dy, n, c}, {p.activated, n, f}, m_.down, w_.down_bias);

    const Matrix gate_up{p.gate_up_gradient, n, 2 * f};
    input_gradient(run, p, m_.gate_up, gate_up_family(), p.normed_residual, gate_up.data, p.gate_up_gradient,
                   p.normed_gradient, adapters);
    linear_gradients(base, p, gate_up, {p.normed_residual, n, c}, m_.gate_up, w_.gate_up_bias);

    k_.rms_norm_backward(p.residual, run.at(w_.post_norm), p.normed_gradient, dy, p.residual_gradient, p.runs, n, c,
                         epsilon());
    base.runs(p.runs, runs_of(n), c, w_.post_norm);
  }

  void backward_attention(const Steps& run, const BackwardArgs& args, const LayerPieces& p, GradientWriter& base,
                          AdapterGradients& adapters) const {
    const int64_t n = run.n(), c = spec_.hidden, width = sizes_.attention_width();
    const void* dy = p.residual_gradient;
    input_gradient(run, p, m_.o, o_family(), p.attention_output, dy, p.normed_gradient, p.attention_gradient, adapters);
    linear_gradients(base, p, {dy, n, c}, {p.attention_output, n, width}, m_.o, w_.o_bias);

    ops_.attention_backward(dtype_, sizes_.attention, *args.batch, p.qkv, p.attention_output, p.log_sum_exp,
                            p.attention_gradient, p.qkv_gradient, p.attention);
    run.rotate_in_place(p.qkv_gradient, -1);
    if (spec_.qk_norm) backward_qk_norm(run, p, base);
    backward_qkv(run, args, p, base, adapters);
  }

  void backward_qk_norm(const Steps& run, const LayerPieces& p, GradientWriter& base) const {
    const int64_t n = run.n();
    for (const auto& [heads, offset] : {std::pair{query_heads(), w_.q_norm}, std::pair{key_heads(), w_.k_norm}}) {
      k_.head_norm_backward(p.raw_qkv, run.at(offset), p.qkv_gradient, p.qkv_gradient, p.runs, heads, n, epsilon());
      base.runs(p.runs, runs_of(n), spec_.head_dim, offset);
    }
  }

  void backward_qkv(const Steps& run, const BackwardArgs& args, const LayerPieces& p, GradientWriter& base,
                    AdapterGradients& adapters) const {
    const int64_t n = run.n(), c = spec_.hidden;
    const Matrix gradient{p.qkv_gradient, n, sizes_.attention.row()};
    if (base.wanted() || adapts_any({Projection::q, Projection::k, Projection::v}))
      run.norm(args.input, w_.input_norm, p.normed_input_again);
    linear_gradients(base, p, gradient, {p.normed_input_again, n, c}, m_.qkv, w_.qkv_bias);
    // The norm's own gradient needs it even when nobody wants the input's.
    void* into = args.input_gradient != nullptr || base.wanted() ? p.normed_gradient : nullptr;
    input_gradient(run, p, m_.qkv, qkv_family(), p.normed_input_again, p.qkv_gradient, p.qkv_gradient, into, adapters);
    if (into == nullptr) return;
    void* dx = args.input_gradient != nullptr ? args.input_gradient : p.normed_gradient;
    k_.rms_norm_backward(args.input, run.at(w_.input_norm), into, p.residual_gradient, dx, p.runs, n, c, epsilon());
    base.runs(p.runs, runs_of(n), c, w_.input_norm);
  }

  void append(const void* qkv, int64_t column, int64_t tokens, std::byte* cache, int64_t past) const {
    const int64_t each = size_of(dtype_), width = sizes_.kv_width();
    for (int64_t token = 0; token < tokens; ++token)
      std::memcpy(cache + (past + token) * width * each,
                  static_cast<const std::byte*>(qkv) + (token * sizes_.attention.row() + column) * each,
                  static_cast<size_t>(width * each));
  }

  std::string name_;
  DecoderSpec spec_;
  Dtype dtype_;
  const Ops& ops_;
  const Kernels& k_;
  std::vector<int> groups_;
  ParameterGroup layer_group_;
  int64_t unit_;  // bytes of an element of the layer's group
  Offsets w_;
  Matrices m_;
  std::shared_ptr<RopeTable> rope_;
  LayerSizes sizes_;
  AdapterSet adapters_;
  std::vector<SlotSpec> slots_;
  BlockCost cost_;
};

}  // namespace

std::unique_ptr<LayerProgram> make_layer_program(const LayerSetup& setup) { return std::make_unique<Layer>(setup); }

}  // namespace sluice::models
