#include "runtime/exec/block_prediction.h"

#include <algorithm>

#include "runtime/plan/block_time.h"

namespace sluice::exec {
namespace {

using models::BlockCost;
using models::LinearCost;
using plan::PassWork;

// Of one block at one size.
class Block {
 public:
  Block(const models::BlockProgram& block, Dtype dtype, const PassSize& size, const plan::Machine& machine)
      : cost_(block.cost()), slots_(block.slots()), dtype_(dtype), size_(size), machine_(machine) {}

  BlockPass predict() const {
    BlockPass pass{time(forward()), time(backward()), {}, {}};
    pass.backward_recomputing = pass.backward;
    for (size_t slot = 0; slot < slots_.size(); ++slot) {
      pass.slot_recomputing.push_back(time(recomputing(slot)));
      pass.backward_recomputing += pass.slot_recomputing.back();
    }
    return pass;
  }

 private:
  Microseconds time(const PassWork& work) const { return plan::time_of(machine_, dtype_, work); }
  double tokens() const { return static_cast<double>(size_.tokens); }
  double bytes(double elements) const { return elements * static_cast<double>(size_of(dtype_)); }
  double documents() const { return tokens() / static_cast<double>(size_.document); }
  plan::AttentionWork attention(double forwards, double backwards) const {
    if (cost_.heads == 0) return {};
    return {cost_.heads, cost_.head_dim, size_.document, forwards * documents(), backwards * documents()};
  }

  // As [m, k] x [k, n]: y = x w^T, dx = dy w, dw = dy^T x.
  enum class Product { forward, input_gradient, weight_gradient };
  void add(PassWork& work, const LinearCost& linear, Product product, int times = 1) const {
    const int64_t rows = linear.tokens_max > 0 ? std::min(linear.tokens_max, size_.tokens) : size_.tokens;
    const double count = times * tokens() / static_cast<double>(rows);
    work.kernel_bytes += times * linear.expanded_bytes;
    switch (product) {
      case Product::forward:
        return work.products.push_back({rows, linear.out, linear.in, count});
      case Product::input_gradient:
        return work.products.push_back({rows, linear.in, linear.out, count});
      case Product::weight_gradient:
        return work.products.push_back({linear.out, linear.in, rows, count});
    }
  }

  PassWork work_of_each_pass() const {
    PassWork work;
    for (const models::FixedCost::Product& product : cost_.each_pass.products)
      work.products.push_back({product.m, product.n, product.k, product.count});
    work.kernel_bytes = cost_.each_pass.bytes;
    return work;
  }
  PassWork forward() const {
    PassWork work = work_of_each_pass();
    for (const LinearCost& linear : cost_.linears)
      if (!linear.in_backward_alone) add(work, linear, Product::forward);
    work.attention = attention(1, 0);
    work.kernel_bytes += bytes(cost_.forward_elements_per_token * tokens());
    return work;
  }
  PassWork backward() const {
    PassWork work = work_of_each_pass();
    for (const LinearCost& linear : cost_.linears) {
      if (linear.forwards_in_backward > 0) add(work, linear, Product::forward, linear.forwards_in_backward);
      if (linear.in_backward_alone) continue;
      add(work, linear, Product::input_gradient);
      if (linear.weight_gradient) add(work, linear, Product::weight_gradient);
    }
    work.attention = attention(0, 1);
    work.kernel_bytes += bytes(cost_.backward_elements_per_token * tokens());
    work.kernel_bytes += static_cast<double>(cost_.gradient_elements * stored_bytes());
    return work;
  }
  // That storing an element of a weight gradient moves. A product of its own type is written in place; a block without
  // products clears its gradient and adds rows.
  int64_t stored_bytes() const {
    if (cost_.linears.empty()) return size_of(size_.gradient_dtype);
    return size_.gradient_dtype == dtype_ ? 0 : size_of(dtype_) + size_of(size_.gradient_dtype);
  }
  PassWork recomputing(size_t slot) const {
    PassWork work;
    for (const LinearCost& linear : cost_.linears)
      if (linear.slot == static_cast<int>(slot)) add(work, linear, Product::forward);
    if (cost_.attention_slot == static_cast<int>(slot)) work.attention = attention(1, 0);
    work.kernel_bytes += bytes(slots_[slot].recompute_elements_per_token * tokens());
    return work;
  }

  BlockCost cost_;
  std::span<const models::SlotSpec> slots_;
  Dtype dtype_;
  PassSize size_;
  const plan::Machine& machine_;
};

}  // namespace

BlockPasses predict_block_passes(const models::Model& model, const PassSize& size, const plan::Machine& machine) {
  BlockPasses passes;
  for (const auto& block : model.blocks)
    passes.blocks.push_back(Block(*block, model.compute_dtype, size, machine).predict());
  return passes;
}

}  // namespace sluice::exec
