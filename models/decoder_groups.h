// Where each parameter of a decoder lies: the flat groups that stream, train and are stored together.
//
// Without an adapter: "embedding", "layer.0", "layer.1", ..., "lm_head" when untied, "head", all trainable.
// With one: the same, frozen, and each "layer.i" is followed by "layer.i.adapter", trainable.
//
// Inside "layer.i", each family at a multiple of kTensorAlignmentElements, its members without a gap:
//   decay:    q|k|v weights, o weight, gate|up weights, down weight
//   no decay: q|k|v biases, o bias, gate|up biases, down bias, input norm, post-attention norm, q_norm, k_norm
// Where matrices are in low bits the layer's group is packed: codes and scales (low_bit_pieces) stand for them, in the
// same order, and nothing is a family but the biases. Inside "layer.i.adapter": lora_A [rank, in], lora_B [out, rank]
// and, with DoRA, lora_magnitude_vector [out] of q, k, v, o, gate, up, down as targeted, each a family of its own, all
// decay (the Trainer's rule goes by names). "embedding": embed_tokens. "lm_head": a group as large as the embedding's,
// so that both pass through one buffer. "head": model.norm.
// Inside a group the tensors are in the order of their offsets.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/decoder.h"
#include "models/low_bit.h"
#include "models/parameter_group.h"

namespace sluice::models {

// The projections of a layer, in the order in which they lie: what LoRA can target.
enum class Projection { q, k, v, o, gate, up, down };
inline constexpr int kProjectionCount = 7;

struct ProjectionShape {
  Projection projection = Projection::q;
  std::string_view module;       // "q_proj": what lora_target_modules and AdapterSpec call it
  std::string_view module_path;  // inside the layer: "self_attn.q_proj"
  int64_t in = 0, out = 0;       // weight is [out, in], applied as y = x W^T
  bool bias = false;
};

// All seven, in the order of Projection.
std::vector<ProjectionShape> layer_projections(const DecoderSpec& spec);

// How the matrices of a frozen base are stored, and what is computed in; without an entry: as elements of `compute`.
struct StoredBase {
  LowBitFormats low_bits;
  Dtype compute = Dtype::f32;
};

std::vector<ParameterGroup> decoder_groups(const DecoderSpec& spec, const std::optional<AdapterSpec>& adapter,
                                           const StoredBase& stored = {});

// The tensor of that name, or null: optional ones (biases, q_norm, ...) are absent from groups that lack them.
const ParameterTensor* find_tensor(const ParameterGroup& group, std::string_view name);

// "model.layers.3." + what follows in the checkpoint, e.g. "self_attn.q_proj.weight".
std::string layer_tensor_name(int64_t layer, std::string_view rest);

// "base_model.model.model.layers.3.self_attn.q_proj." + "lora_A.weight", "lora_B.weight" or kMagnitude.
inline constexpr std::string_view kMagnitude = "lora_magnitude_vector";
std::string adapter_tensor_name(int64_t layer, const ProjectionShape& projection, std::string_view rest);

}  // namespace sluice::models
