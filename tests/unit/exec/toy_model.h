// A model small enough to check by hand and free of LibTorch: rows of a table, layers y = x + w * x, and the loss
// sum((x * h)^2) / 2; a tied head takes the table's first row. fp32. For running real schedules through the executor
// under the sanitizers.
#pragma once

#include <cstring>
#include <memory>

#include "models/program.h"

namespace sluice::exec {

inline constexpr int64_t kToyWidth = 64, kToyVocabulary = 96;

class ToyBlock : public models::HeadProgram {
 public:
  explicit ToyBlock(std::string name, int group) : name_(std::move(name)), groups_{group} {}
  const std::string& name() const override { return name_; }
  std::span<const int> groups() const override { return groups_; }
  std::span<const models::SlotSpec> slots() const override { return slots_; }
  models::BlockCost cost() const override { return {1000, 2000, 0}; }
  Bytes workspace_bytes(models::Pass, int64_t tokens, std::span<const uint8_t>) const override {
    return Bytes{tokens * kToyWidth * 4};
  }
  void forward(const models::ForwardArgs&) const override {}
  void backward(const models::BackwardArgs&) const override {}
  void loss(const models::BackwardArgs&, models::OpReport&) const override {}
  void logits(const void*, std::span<const int32_t>, std::span<const void* const>, float*,
              std::span<std::byte>) const override {}
  int64_t vocabulary() const override { return kToyVocabulary; }

 protected:
  static const float* floats(const void* p) { return static_cast<const float*>(p); }
  static float* floats(void* p) { return static_cast<float*>(p); }
  // The gradient of the group, zeroed by the first to add.
  static float* gradient(const models::BackwardArgs& args, int64_t elements) {
    float* g = floats(args.gradients[0]);
    if (args.accumulate[0] == 0) std::memset(g, 0, static_cast<size_t>(elements) * 4);
    return g;
  }

  std::string name_;
  std::vector<int> groups_;
  std::vector<models::SlotSpec> slots_;
};

class ToyEmbedding final : public ToyBlock {
 public:
  ToyEmbedding() : ToyBlock("embedding", 0) {}
  void forward(const models::ForwardArgs& a) const override {
    for (int64_t n = 0; n < a.batch->tokens; ++n)
      std::memcpy(floats(a.output) + n * kToyWidth,
                  floats(a.parameters[0]) + a.batch->token_ids[static_cast<size_t>(n)] * kToyWidth, kToyWidth * 4);
  }
  void backward(const models::BackwardArgs& a) const override {
    float* g = gradient(a, kToyVocabulary * kToyWidth);
    for (int64_t n = 0; n < a.batch->tokens; ++n)
      for (int64_t c = 0; c < kToyWidth; ++c)
        g[a.batch->token_ids[static_cast<size_t>(n)] * kToyWidth + c] += floats(a.output_gradient)[n * kToyWidth + c];
  }
};

class ToyLayer final : public ToyBlock {
 public:
  ToyLayer(std::string name, int group) : ToyBlock(std::move(name), group) {
    slots_ = {{"input_copy", Dtype::f32, kToyWidth, 10}};
  }
  void forward(const models::ForwardArgs& a) const override {
    const int64_t count = a.batch->tokens * kToyWidth;
    float* copy = a.slots[0] != nullptr ? floats(a.slots[0]) : reinterpret_cast<float*>(a.workspace.data());
    for (int64_t i = 0; i < count; ++i) {
      copy[i] = floats(a.input)[i];
      floats(a.output)[i] = copy[i] + floats(a.parameters[0])[i % kToyWidth] * copy[i];
    }
  }
  void backward(const models::BackwardArgs& a) const override {
    const int64_t count = a.batch->tokens * kToyWidth;
    float* g = gradient(a, kToyWidth);
    const float* x = a.slots[0] != nullptr ? floats(a.slots[0]) : floats(a.input);
    for (int64_t i = 0; i < count; ++i) {
      const float dy = floats(a.output_gradient)[i];
      g[i % kToyWidth] += dy * x[i];
      if (a.input_gradient != nullptr) floats(a.input_gradient)[i] = dy * (1 + floats(a.parameters[0])[i % kToyWidth]);
    }
  }
};

class ToyHead final : public ToyBlock {
 public:
  ToyHead(int group, int64_t elements) : ToyBlock("head", group), elements_(elements) {}
  void loss(const models::BackwardArgs& a, models::OpReport& report) const override {
    double sum = 0;
    const bool trains = a.gradients[0] != nullptr;
    float* g = trains ? gradient(a, elements_) : nullptr;
    for (int64_t i = 0; i < a.batch->tokens * kToyWidth; ++i) {
      const float x = floats(a.input)[i], h = floats(a.parameters[0])[i % kToyWidth];
      sum += 0.5 * static_cast<double>(x * h) * static_cast<double>(x * h);
      const auto scale = static_cast<float>(a.batch->loss_scale);
      if (trains) g[i % kToyWidth] += scale * x * x * h;
      if (a.input_gradient != nullptr) floats(a.input_gradient)[i] = scale * x * h * h;
    }
    report.loss_sum = sum;
  }

 private:
  int64_t elements_;
};

enum class ToyHeadKind : uint8_t { own, tied };

inline models::Model toy_model(int layers, ToyHeadKind head = ToyHeadKind::own) {
  models::Model model;
  model.hidden = kToyWidth;
  model.vocabulary = kToyVocabulary;
  const auto add_group = [&](const std::string& name, int64_t elements) {
    model.groups.push_back({name, true, elements, elements, {{name + ".weight", {elements}, 0, elements}}});
    return static_cast<int>(model.groups.size()) - 1;
  };
  add_group("embedding", kToyVocabulary * kToyWidth);
  model.blocks.push_back(std::make_unique<ToyEmbedding>());
  for (int i = 0; i < layers; ++i) {
    const std::string name = "layer." + std::to_string(i);
    model.blocks.push_back(std::make_unique<ToyLayer>(name, add_group(name, kToyWidth)));
  }
  if (head == ToyHeadKind::tied) {
    model.blocks.push_back(std::make_unique<ToyHead>(0, kToyVocabulary * kToyWidth));
  } else {
    model.blocks.push_back(std::make_unique<ToyHead>(add_group("head", kToyWidth), kToyWidth));
  }
  return model;
}

}  // namespace sluice::exec
