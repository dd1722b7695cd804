// A Trainer's parameters as tensors, for programs that use LibTorch anyway.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <sluice/trainer.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sluice {

// A copy, fp32, on the CPU. Throws as Trainer::read_parameter.
inline at::Tensor read_tensor(Trainer& trainer, const std::string& name) {
  const std::vector<Parameter> all = trainer.parameters();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Parameter& each) { return each.name == name; });
  at::Tensor values = at::empty(found == all.end() ? std::vector<int64_t>{0} : found->shape, at::kFloat);
  trainer.read_parameter(name, {values.data_ptr<float>(), static_cast<size_t>(values.numel())});
  return values;
}

// `values` of any dtype, of the tensor's shape. Throws as Trainer::write_parameter.
inline void write_tensor(Trainer& trainer, const std::string& name, const at::Tensor& values) {
  const at::Tensor exact = values.detach().to(at::kCPU, at::kFloat).contiguous();
  trainer.write_parameter(name, {exact.data_ptr<float>(), static_cast<size_t>(exact.numel())});
}

// The tensor where it lies in the runtime's memory, for reading; undefined where it does not lie in RAM. It ends as
// Trainer::view_parameter says.
inline at::Tensor view_tensor(Trainer& trainer, const std::string& name) {
  const std::optional<ParameterView> view = trainer.view_parameter(name);
  if (!view) return {};
  const std::vector<Parameter> all = trainer.parameters();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Parameter& each) { return each.name == name; });
  const at::ScalarType type = view->dtype == "f32" ? at::kFloat : view->dtype == "bf16" ? at::kBFloat16 : at::kHalf;
  return at::from_blob(const_cast<void*>(view->data), found->shape, type);
}

// A batch of [rows, columns] token ids and labels (int64, as tokenizers give them; labels undefined: all tokens are
// learnt). `lengths`, [rows], int64: how many tokens of each row count; undefined: all.
inline Batch batch_of(const at::Tensor& token_ids_BT, const at::Tensor& labels_BT = {},
                      const at::Tensor& lengths_B = {}) {
  TORCH_CHECK(token_ids_BT.dim() == 2, "token ids are [rows, columns], not ", token_ids_BT.sizes());
  TORCH_CHECK(!labels_BT.defined() || labels_BT.sizes() == token_ids_BT.sizes(), "labels are as many as token ids");
  Batch batch;
  for (int64_t row = 0; row < token_ids_BT.size(0); ++row) {
    const int64_t length = lengths_B.defined() ? lengths_B[row].item<int64_t>() : token_ids_BT.size(1);
    batch.document_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
    const auto append = [&](const at::Tensor& from, std::vector<int32_t>& to) {
      const at::Tensor part = from[row].slice(0, 0, length).to(at::kInt).contiguous().cpu();
      to.insert(to.end(), part.data_ptr<int32_t>(), part.data_ptr<int32_t>() + part.numel());
    };
    append(token_ids_BT, batch.token_ids);
    if (labels_BT.defined()) append(labels_BT, batch.labels);
  }
  return batch;
}

// A loss that autograd differentiates. `of` gives the sum, a scalar, of logits [R, V], fp32, and labels [R], int64,
// both where Job::loss_place has them; the tensors end with the call.
inline Loss loss_of(std::function<at::Tensor(const at::Tensor& logits_RV, const at::Tensor& labels_R)> of) {
  return [of = std::move(of)](const LossChunk& chunk) {
    const at::Device where =
        chunk.gpu < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(chunk.gpu));
    const at::Tensor logits_RV =
        at::from_blob(chunk.logits.data(), {chunk.rows, chunk.vocabulary}, at::TensorOptions(at::kFloat).device(where));
    const at::Tensor labels_R =
        at::from_blob(const_cast<int32_t*>(chunk.labels.data()), {chunk.rows}, at::kInt).to(where, at::kLong);
    const c10::AutoGradMode differentiates(chunk.wants_gradient);
    const at::Tensor leaf = logits_RV.detach().requires_grad_(chunk.wants_gradient);
    const at::Tensor sum = of(leaf, labels_R);
    TORCH_CHECK(sum.defined() && sum.numel() == 1, "a loss is one number, the sum over the rows");
    if (chunk.wants_gradient) {
      sum.backward();
      const c10::AutoGradMode no_graph(false);
      logits_RV.copy_(leaf.grad());
    }
    return sum.item<double>();
  };
}

}  // namespace sluice
