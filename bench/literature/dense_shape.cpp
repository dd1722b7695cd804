#include "bench/literature/dense_shape.h"

#include <algorithm>
#include <array>

#include "runtime/core/check.h"
#include "runtime/plan/block_time.h"
#include "runtime/plan/choices.h"

namespace sluice::literature {
namespace {

using plan::BlockShape;
using plan::PassWork;

constexpr int64_t kElement = 2;   // bf16
constexpr int64_t kTileRows = 4;  // sequences that a block works on at once
// What code, driver and libraries take of the host.
constexpr Bytes kProcess = GiB(2);

// A whole fp32 master beside the compute weight is what 16-bit weights without a low half have.
StateLayout layout_of(StateFormat states) {
  switch (states) {
    case StateFormat::split_master:
      return {MomentFormat::f32, Dtype::bf16};
    case StateFormat::separate_master:
      return {MomentFormat::f32, Dtype::f16};
    case StateFormat::split_master_bf16:
      return {MomentFormat::bf16, Dtype::bf16};
    case StateFormat::split_master_int8:
      return {MomentFormat::int8, Dtype::bf16};
  }
  return {};
}

class Dense {
 public:
  Dense(const DenseJob& job, const plan::Machine& machine) : job_(job), model_(job.model), machine_(machine) {}

  plan::JobShape shape() const {
    plan::JobShape shape;
    shape.tokens_max = tokens();
    shape.micro_batches = job_.micro_batches;
    shape.boundary_bytes = bytes_of(model_.hidden);
    // As the product does: fp32 where several micro-batches add up.
    shape.gradient_bytes_per_element = job_.micro_batches > 1 ? 4 : 2;
    shape.process_bytes = kProcess;
    shape.device_memory_rate = machine_.device_memory;
    add_groups(shape);
    const int layers = static_cast<int>(model_.layers);
    shape.blocks.push_back(embedding());
    for (int layer = 0; layer < layers; ++layer) shape.blocks.push_back(layer_block(layer + 1));
    shape.blocks.push_back(head(layers + 1));
    return shape;
  }

 private:
  int64_t tokens() const { return job_.sequence * job_.rows; }
  int64_t tile() const { return job_.sequence * std::min(kTileRows, job_.rows); }
  double tiles() const { return static_cast<double>(tokens()) / static_cast<double>(tile()); }
  double rows() const { return static_cast<double>(job_.rows); }
  // Of so many elements per token, for all tokens or a tile of them.
  Bytes bytes_of(int64_t elements) const { return {tokens() * elements * kElement}; }
  int64_t tile_bytes(int64_t elements) const { return tile() * elements * kElement; }
  double kernel_bytes(int64_t elements) const { return static_cast<double>(bytes_of(elements).count); }
  double flops(int64_t in, int64_t out) const {
    return 2.0 * static_cast<double>(tokens() * in) * static_cast<double>(out);
  }
  double attention_flops() const { return flops(model_.hidden, job_.sequence); }
  Microseconds time(const PassWork& work) const { return plan::time_of(machine_, Dtype::bf16, work); }

  void add_groups(plan::JobShape& shape) const {
    const int64_t largest = std::max(model_.layer_parameters(), model_.vocabulary * model_.hidden);
    const Bytes staging{plan::chunk_elements_for(largest) * kElement + 2 * 4096};
    const auto add = [&](const std::string& name, int64_t elements) {
      shape.groups.push_back({name, true, elements, kElement, layout_of(job_.states), staging});
    };
    add("embedding", model_.vocabulary * model_.hidden);
    for (int64_t layer = 0; layer < model_.layers; ++layer)
      add("layer." + std::to_string(layer), model_.layer_parameters());
    add("norm", 2 * model_.hidden);
  }

  // One of a layer's products, [tokens, in] x [in, out].
  struct Linear {
    int64_t in, out;
  };
  enum Which { kQkv, kOutput, kUp, kDown };
  std::array<Linear, 4> linears() const {
    const int64_t h = model_.hidden;
    return {Linear{h, 3 * h}, {h, h}, {h, 4 * h}, {4 * h, h}};
  }
  void add_forward(PassWork& work, const Linear& linear) const {
    work.products.push_back({tile(), linear.out, linear.in, tiles()});
  }
  void add_backward(PassWork& work, const Linear& linear) const {
    work.products.push_back({tile(), linear.in, linear.out, tiles()});
    work.products.push_back({linear.out, linear.in, tile(), tiles()});
  }
  plan::AttentionWork attention(double forwards, double backwards) const {
    return {model_.heads, model_.hidden / model_.heads, job_.sequence, forwards * rows(), backwards * rows()};
  }

  BlockShape embedding() const {
    const int64_t h = model_.hidden;
    PassWork forward, backward;
    forward.kernel_bytes = kernel_bytes(2 * h);
    backward.kernel_bytes = kernel_bytes(3 * h) + static_cast<double>(model_.vocabulary * h * kElement);
    BlockShape block{"embedding", {0}, {}, 0, 0, {}, time(forward), time(backward)};
    block.workspace_bytes = [bytes = tokens() * 4](plan::ComputePass, std::span<const uint8_t>) {
      return Bytes{bytes};
    };
    return block;
  }

  BlockShape head(int norm_group) const {
    const Linear logits{model_.hidden, model_.vocabulary};
    PassWork forward, both;
    add_forward(forward, logits);
    add_forward(both, logits);
    add_backward(both, logits);
    forward.kernel_bytes = kernel_bytes(4 * logits.in + 2 * logits.out);
    both.kernel_bytes = kernel_bytes(10 * logits.in + 3 * logits.out);
    const double once = flops(logits.in, logits.out);
    BlockShape block{"head", {0, norm_group}, {}, once, 2 * once, {}, time(forward), time(both)};
    const int64_t bytes = tile_bytes(3 * logits.in + logits.out);
    block.workspace_bytes = [bytes](plan::ComputePass, std::span<const uint8_t>) { return Bytes{bytes}; };
    return block;
  }

  BlockShape layer_block(int group) const {
    const int64_t h = model_.hidden;
    PassWork forward, backward;
    for (const Linear& linear : linears()) {
      add_forward(forward, linear);
      add_backward(backward, linear);
    }
    forward.attention = attention(1, 0);
    backward.attention = attention(0, 1);
    // Two norms, two additions, the activation of 4 h; backward: norms again and back, the activation and its gradient.
    forward.kernel_bytes = kernel_bytes((2 + 4 + 3) * h + 8 * h);
    backward.kernel_bytes = kernel_bytes(12 * h + 5 * 4 * h);
    double once = attention_flops();
    double back = plan::kBackwardWork * attention_flops();
    for (const Linear& linear : linears()) {
      once += flops(linear.in, linear.out);
      back += 2 * flops(linear.in, linear.out);
    }
    return {
        "layer." + std::to_string(group - 1), {group}, slots(), once, back, workspace(), time(forward), time(backward)};
  }

  std::vector<plan::SlotShape> slots() const {
    const int64_t h = model_.hidden;
    const auto product = [&](const char* name, Which which, int64_t kernel_elements) {
      const Linear linear = linears()[which];
      PassWork work;
      add_forward(work, linear);
      work.kernel_bytes = kernel_bytes(kernel_elements);
      return plan::SlotShape{name, bytes_of(linear.out), flops(linear.in, linear.out), time(work)};
    };
    PassWork attend;
    attend.attention = attention(1, 0);
    const Bytes log_sum_exp{tokens() * model_.heads * 4};
    std::vector<plan::SlotShape> all = {product("qkv", kQkv, 2 * h),
                                        {"attention", bytes_of(h) + log_sum_exp, attention_flops(), time(attend)},
                                        product("residual", kOutput, 2 * h),
                                        product("mlp_up", kUp, 2 * h)};
    if (job_.recomputation == Recomputation::whole_layer) all.push_back(product("mlp_down", kDown, 8 * h + 3 * h));
    return all;
  }

  // Beside the slots that are there: a tile of those that are not, of normed inputs, and of gradients on their way.
  std::function<Bytes(plan::ComputePass, std::span<const uint8_t>)> workspace() const {
    return [unit = tile_bytes(model_.hidden), product = 4 * model_.hidden * model_.hidden * kElement](
               plan::ComputePass pass, std::span<const uint8_t> kept) {
      const auto absent = [&](size_t slot, int64_t units) { return kept[slot] != 0 ? 0 : units; };
      const int64_t attention = absent(kQkv, 3) + absent(1, 1);
      if (pass == plan::ComputePass::forward)
        return Bytes{unit * (absent(2, 1) + std::max(1 + attention, absent(3, 4) + 5))};
      // The residual and two gradients stay; then the MLP goes backward, then attention.
      return Bytes{unit * (attention + absent(2, 1) + 2 + std::max<int64_t>(4 + 4 + 4 + 1, 3 + 1 + 1)) + product};
    };
  }

  const DenseJob& job_;
  const DenseModel& model_;
  const plan::Machine& machine_;
};

}  // namespace

std::span<const DenseModel> dense_models() {
  static const std::array<DenseModel, 5> models = {DenseModel{"13B", 40, 5120, 40},
                                                   {"30B", 48, 7168, 56},
                                                   {"65B", 80, 8192, 64},
                                                   {"100B", 80, 10240, 80},
                                                   {"175B", 96, 12288, 96}};
  return models;
}

const DenseModel& dense_model(const std::string& name) {
  for (const DenseModel& model : dense_models())
    if (model.name == name) return model;
  SLUICE_CHECK(false, "no dense model is called " + name);
}

plan::JobShape dense_shape(const DenseJob& job, const plan::Machine& machine) { return Dense(job, machine).shape(); }

}  // namespace sluice::literature
