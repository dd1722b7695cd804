// A Trainer's parameters as tensors, for programs that use LibTorch anyway.
#pragma once

#include <ATen/ATen.h>
#include <sluice/trainer.h>

#include <algorithm>
#include <optional>
#include <string>
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

}  // namespace sluice
