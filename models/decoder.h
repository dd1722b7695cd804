// A decoder described by data: what config.json says, checked field by field, and the programs built from it.
#pragma once

#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "models/low_bit.h"
#include "models/program.h"

namespace sluice::models {

enum class RopeType { standard, linear, llama3, yarn };

struct RopeSpec {
  RopeType type = RopeType::standard;
  double theta = 10000;
  double factor = 1;
  // llama3
  double low_freq_factor = 1, high_freq_factor = 4;
  // llama3, yarn
  int64_t original_positions_max = 0;
  // yarn
  double beta_fast = 32, beta_slow = 1;
  std::optional<double> attention_factor;
  std::optional<double> mscale, mscale_all_dim;
  bool truncate = true;
};

struct DecoderSpec {
  std::string family;  // config.json "model_type": a row of the table in decoder_spec.cpp
  int64_t layers = 0, hidden = 0, ffn = 0, vocabulary = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t positions_max = 0;
  double norm_epsilon = 1e-6;
  bool tied_head = false;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool qk_norm = false;
  std::vector<int64_t> sliding_window;  // per layer: positions seen, the token's own included; 0: none
  // config.json "pad_token_id". The input embedding's gradient skips this row, as torch.nn.Embedding(padding_idx)
  // does in transformers; it matters where padding and end of text are one token. A tied head's gradient stays whole.
  std::optional<int64_t> padding_token;
  RopeSpec rope;
};

// Throws SetupError naming file and field: a field that changes the arithmetic and is not supported, a missing
// field, a wrong type. Fields known not to matter for training (torch_dtype, use_cache, ...) pass; unknown ones
// that are not in the table of harmless fields are refused by name.
DecoderSpec read_decoder_spec(const std::filesystem::path& config_json);

struct AdapterSpec {
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  std::vector<std::string> target_modules;  // resolved: "q_proj", "down_proj", ...
  bool rank_stabilised = false;             // scale alpha / sqrt(rank) (Kalajdzievski 2023, rsLoRA), else alpha / rank
  bool decomposed = false;                  // a magnitude for each row of a weight (Liu et al. 2024, "DoRA")
  double scale() const {
    const auto r = static_cast<double>(rank);
    return alpha / (rank_stabilised ? std::sqrt(r) : r);
  }
};

// Every target_modules entry that matches nothing throws SetupError listing what exists.
// `linear` = lora_target_linear: all projections of the layers.
std::vector<std::string> resolve_lora_targets(const DecoderSpec& spec, const std::vector<std::string>& asked,
                                              bool linear);

// Groups: full fine-tuning: "embedding", "layer.i", "head" (final norm; the projection too when untied), all trainable.
// With an adapter those are frozen and each layer has one more, "layer.i.adapter", trainable, with peft's names
// ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight").
// The model keeps `ops`, the arithmetic of the device that it will run on (models/ops/ops.h). `low_bits`: matrices of
// the layers that are stored so; with an adapter only. `own_loss`: micro-batches bring their own (MicroBatch::loss).
class Ops;
Model build_decoder(const DecoderSpec& spec, const std::optional<AdapterSpec>& adapter, Dtype compute_dtype,
                    std::unique_ptr<Ops> ops, const LowBitFormats& low_bits = {}, bool own_loss = false);

}  // namespace sluice::models
