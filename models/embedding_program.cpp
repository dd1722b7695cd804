#include "models/embedding_program.h"

namespace sluice::models {
namespace {

class Embedding final : public BlockProgram {
 public:
  Embedding(const Ops& ops, const DecoderSpec& spec, int group, const ParameterGroup& layout, Dtype dtype)
      : ops_(ops),
        groups_{group},
        elements_(layout.elements),
        trainable_(layout.trainable),
        hidden_(spec.hidden),
        padding_(spec.padding_token ? static_cast<int32_t>(*spec.padding_token) : -1),
        dtype_(dtype) {}

  const std::string& name() const override { return name_; }
  std::span<const int> groups() const override { return groups_; }
  std::span<const SlotSpec> slots() const override { return {}; }
  // Rows move, nothing is multiplied.
  BlockCost cost() const override {
    const auto c = static_cast<double>(hidden_);
    BlockCost cost;
    cost.forward_flops_per_token = cost.backward_flops_per_token = c;
    cost.forward_elements_per_token = 2 * c;
    cost.backward_elements_per_token = trainable_ ? 3 * c : 0;
    cost.gradient_elements = trainable_ ? elements_ : 0;
    return cost;
  }

  Bytes workspace_bytes(Pass pass, int64_t tokens_max, std::span<const uint8_t>) const override {
    Scratch measure;
    if (pass == Pass::backward) measure.take(Dtype::i32, tokens_max);
    return measure.used();
  }

  void forward(const ForwardArgs& args) const override {
    ops_.kernels(dtype_).gather_rows(args.parameters[0], ops_.numbers(*args.batch).token_ids, args.output,
                                     args.batch->tokens, hidden_);
  }

  void backward(const BackwardArgs& args) const override {
    if (args.gradients[0] == nullptr) return;
    Scratch scratch(args.workspace);
    auto* order = scratch.take_as<int32_t>(Dtype::i32, args.batch->tokens);
    if (args.accumulate[0] == 0) ops_.clear(args.gradients[0], elements_ * size_of(args.gradient_dtype));
    ops_.scatter_add_rows(dtype_, args.output_gradient, *args.batch, hidden_, padding_, args.gradients[0],
                          args.gradient_dtype, order);
  }

 private:
  const std::string name_ = "embedding";
  const Ops& ops_;
  std::vector<int> groups_;
  int64_t elements_;
  bool trainable_;
  int64_t hidden_;
  int32_t padding_;
  Dtype dtype_;
};

}  // namespace

std::unique_ptr<BlockProgram> make_embedding_program(const Ops& ops, const DecoderSpec& spec, int group,
                                                     const ParameterGroup& layout, Dtype compute_dtype) {
  return std::make_unique<Embedding>(ops, spec, group, layout, compute_dtype);
}

}  // namespace sluice::models
