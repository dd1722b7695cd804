#include "bench/ops/memory_model.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>

#include "models/ops/ops.h"
#include "runtime/core/half.h"

namespace sluice::bench {

using models::BlockProgram;
using models::ParameterGroup;
using models::ParameterTensor;
using models::Pass;

models::DecoderSpec smollm2_135m() {
  models::DecoderSpec spec;
  spec.family = "llama";
  spec.layers = 30, spec.hidden = 576, spec.ffn = 1536, spec.vocabulary = 49152;
  spec.heads = 9, spec.kv_heads = 3, spec.head_dim = 64;
  spec.positions_max = 8192;
  spec.norm_epsilon = 1e-5;
  spec.tied_head = true;
  spec.sliding_window.assign(static_cast<size_t>(spec.layers), 0);
  spec.rope.theta = 100000;
  return spec;
}

AlignedMemory::AlignedMemory(int64_t bytes)
    : bytes_(bytes),
      at_(static_cast<std::byte*>(
          std::aligned_alloc(64, static_cast<size_t>(round_up(std::max(bytes, int64_t{64}), 64))))) {
  std::memset(at_.get(), 0, static_cast<size_t>(bytes));
}
void AlignedMemory::Free::operator()(std::byte* at) const { std::free(at); }

namespace {

// Norms around one, everything else around zero: activations stay of ordinary size.
void fill_weights(const ParameterGroup& group, Dtype dtype, std::byte* at, std::minstd_rand& random) {
  constexpr float kSpread = 0.07f / static_cast<float>(std::minstd_rand::max());
  for (const ParameterTensor& tensor : group.tensors) {
    const float least = tensor.name.find("norm.weight") != std::string::npos ? 0.965f : -0.035f;
    for (int64_t i = tensor.offset; i < tensor.offset + tensor.elements; ++i) {
      const float value = least + kSpread * static_cast<float>(random());
      const uint16_t half = dtype == Dtype::f16 ? float_to_f16(value) : float_to_bf16(value);
      dtype == Dtype::f32 ? std::memcpy(at + 4 * i, &value, 4) : std::memcpy(at + 2 * i, &half, 2);
    }
  }
}

}  // namespace

MemoryModel::MemoryModel(const models::DecoderSpec& spec, const std::optional<models::AdapterSpec>& adapter,
                         Dtype compute_dtype, int64_t documents, int64_t document_tokens, Keep keep)
    : model_(models::build_decoder(spec, adapter, compute_dtype, models::cpu_ops())), keep_(keep) {
  const int64_t tokens = documents * document_tokens, each = size_of(compute_dtype);
  std::minstd_rand random(1);
  for (int64_t i = 0; i < tokens; ++i) {
    if (i % document_tokens == 0) starts_.push_back(static_cast<int32_t>(i));
    ids_.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(spec.vocabulary)));
    labels_.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(spec.vocabulary)));
    positions_.push_back(static_cast<int32_t>(i % document_tokens));
  }
  starts_.push_back(static_cast<int32_t>(tokens));
  batch_ = {tokens, ids_, labels_, positions_, starts_, 1.0 / static_cast<double>(tokens), 1, 1, 0};
  for (const ParameterGroup& group : model_.groups) {
    weights_.emplace_back(group.elements * each);
    fill_weights(group, compute_dtype, weights_.back().at(), random);
    gradients_.emplace_back(group.trainable ? group.elements * each : 0);
  }
  slots_.resize(model_.blocks.size());
  for (size_t b = 0; b + 1 < model_.blocks.size(); ++b) {
    boundaries_.emplace_back(tokens * spec.hidden * each);
    if (keep == Keep::all_slots)
      for (const models::SlotSpec& slot : model_.blocks[b]->slots())
        slots_[b].emplace_back(tokens * slot.elements_per_token * size_of(slot.dtype));
  }
  gradient_ = std::make_unique<AlignedMemory>(tokens * spec.hidden * each);
  workspace_ = std::make_unique<AlignedMemory>(workspace_bytes());
}

int64_t MemoryModel::workspace_bytes() const {
  int64_t most = 0;
  for (const auto& block : model_.blocks) {
    const std::vector<uint8_t> kept(block->slots().size(), keep_ == Keep::all_slots);
    for (const Pass pass : {Pass::forward, Pass::backward})
      most = std::max(most, block->workspace_bytes(pass, batch_.tokens, kept).count);
  }
  return most;
}

double MemoryModel::flops() const {
  double per_token = 0;
  const double attended = static_cast<double>(starts_[1] + 1) / 2;
  for (const auto& block : model_.blocks) {
    const models::BlockCost cost = block->cost();
    per_token += cost.forward_flops_per_token + cost.backward_flops_per_token +
                 3.5 * cost.attention_flops_per_token_per_position * attended;
  }
  return per_token * static_cast<double>(batch_.tokens);
}

std::vector<const void*> MemoryModel::parameters(size_t block) const {
  std::vector<const void*> all;
  for (const int group : model_.blocks[block]->groups()) all.push_back(weights_[static_cast<size_t>(group)].at());
  return all;
}

void MemoryModel::forward(size_t b) {
  const BlockProgram& block = *model_.blocks[b];
  std::vector<void*> slots(block.slots().size(), nullptr);
  for (size_t s = 0; s < slots_[b].size(); ++s) slots[s] = slots_[b][s].at();
  const auto weights = parameters(b);
  block.forward(
      {&batch_, b == 0 ? nullptr : boundaries_[b - 1].at(), boundaries_[b].at(), weights, slots, workspace_->span()});
}

double MemoryModel::backward(size_t b) {
  const BlockProgram& block = *model_.blocks[b];
  const bool head = b + 1 == model_.blocks.size();
  std::vector<const void*> slots(block.slots().size(), nullptr);
  for (size_t s = 0; s < slots_[b].size(); ++s) slots[s] = slots_[b][s].at();
  std::vector<void*> into;
  std::vector<uint8_t> accumulate;
  for (const int group : block.groups()) {
    into.push_back(model_.groups[static_cast<size_t>(group)].trainable ? gradients_[static_cast<size_t>(group)].at()
                                                                       : nullptr);
    // A tied head has written the embedding's gradient before.
    accumulate.push_back(b == 0 && model_.head().groups()[0] == group);
  }
  const auto weights = parameters(b);
  const models::BackwardArgs args{&batch_,
                                  b == 0 ? nullptr : boundaries_[b - 1].at(),
                                  head ? nullptr : gradient_->at(),
                                  b == 0 ? nullptr : gradient_->at(),
                                  weights,
                                  into,
                                  accumulate,
                                  model_.compute_dtype,
                                  slots,
                                  workspace_->span()};
  models::OpReport report;
  head ? model_.head().loss(args, report) : block.backward(args);
  return report.loss_sum;
}

double MemoryModel::run() {
  const size_t blocks = model_.blocks.size();
  for (size_t b = 0; b + 1 < blocks; ++b) forward(b);
  double loss = 0;
  for (size_t b = blocks; b-- > 0;) loss += backward(b);
  return loss / static_cast<double>(batch_.tokens);
}

}  // namespace sluice::bench
