#include "models/decoder_groups.h"

#include <algorithm>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/core/dtype.h"
#include "runtime/core/units.h"

namespace sluice::models {

namespace {

using NamedShape = std::pair<std::string, std::vector<int64_t>>;

// Lays tensors into a group from offset 0 on. Decay families first, then begin_no_decay(), then the others.
class GroupBuilder {
 public:
  GroupBuilder(std::string name, bool trainable) {
    group_.name = std::move(name);
    group_.trainable = trainable;
  }

  // Elements are bytes from here on: before the first tensor.
  void pack(Dtype compute) {
    SLUICE_CHECK(group_.tensors.empty(), "a group is packed from its begin");
    group_.packed = true;
    compute_ = compute;
  }
  // A matrix in low bits.
  void matrix(const NamedShape& plain, LowBitFormat format) {
    for (const LowBitPiece& piece : low_bit_pieces(plain.first, plain.second[0], plain.second[1], format))
      add(piece.name, piece.shape, piece.dtype, /*aligned=*/true);
  }
  // Tensors without a gap between them, the first at an aligned offset.
  void family(const std::vector<NamedShape>& members) {
    bool first = true;
    for (const auto& [name, shape] : members) add(name, shape, compute_, std::exchange(first, false));
  }
  void begin_no_decay() {
    SLUICE_CHECK(!no_decay_begun_, "begin_no_decay twice");
    no_decay_begun_ = true;
    align();
    group_.decay_elements = end_;
  }
  ParameterGroup finish() {
    if (!no_decay_begun_) begin_no_decay();
    align();
    group_.elements = end_;
    return std::move(group_);
  }

 private:
  void align() { end_ = round_up(end_, group_.packed ? kTensorAlignmentBytes : kTensorAlignmentElements); }
  void add(const std::string& name, const std::vector<int64_t>& shape, Dtype packed_as, bool aligned) {
    if (aligned) align();
    int64_t elements = 1;
    for (const int64_t dimension : shape) elements *= dimension;
    group_.tensors.push_back({name, shape, end_, elements, packed_as});
    end_ += elements * group_.width_of(group_.tensors.back());
  }

  ParameterGroup group_;
  Dtype compute_ = Dtype::f32;
  int64_t end_ = 0;
  bool no_decay_begun_ = false;
};

const ProjectionShape& shape_of(const std::vector<ProjectionShape>& projections, Projection projection) {
  return projections[static_cast<size_t>(projection)];
}

ParameterGroup embedding_group(const DecoderSpec& spec, bool trainable) {
  GroupBuilder builder("embedding", trainable);
  builder.family({{"model.embed_tokens.weight", {spec.vocabulary, spec.hidden}}});
  return builder.finish();
}

ParameterGroup projection_group(const DecoderSpec& spec, bool trainable) {
  GroupBuilder builder("lm_head", trainable);
  builder.family({{"lm_head.weight", {spec.vocabulary, spec.hidden}}});
  return builder.finish();
}

ParameterGroup head_group(const DecoderSpec& spec, bool trainable) {
  GroupBuilder builder("head", trainable);
  builder.begin_no_decay();
  builder.family({{"model.norm.weight", {spec.hidden}}});
  return builder.finish();
}

// Projections that one GEMM multiplies together.
const std::vector<std::vector<Projection>>& fused_families() {
  static const std::vector<std::vector<Projection>> families = {
      {Projection::q, Projection::k, Projection::v},
      {Projection::o},
      {Projection::gate, Projection::up},
      {Projection::down},
  };
  return families;
}

// Projections that one GEMM multiplies together, without a gap; in low bits each for itself.
void add_matrices(GroupBuilder& builder, const std::vector<NamedShape>& weights, const StoredBase& stored) {
  const auto format_of = [&](const NamedShape& weight) { return stored.low_bits.find(weight.first); };
  const bool plain = std::all_of(weights.begin(), weights.end(),
                                 [&](const NamedShape& weight) { return format_of(weight) == stored.low_bits.end(); });
  if (plain) return builder.family(weights);
  for (const NamedShape& weight : weights) {
    const auto format = format_of(weight);
    if (format == stored.low_bits.end()) {
      builder.family({weight});
    } else {
      builder.matrix(weight, format->second);
    }
  }
}

ParameterGroup layer_group(const DecoderSpec& spec, int64_t layer, bool trainable, const StoredBase& stored) {
  const std::vector<ProjectionShape> projections = layer_projections(spec);
  GroupBuilder builder("layer." + std::to_string(layer), trainable);
  const auto named = [&](const std::string& rest) { return layer_tensor_name(layer, rest); };
  std::vector<std::vector<NamedShape>> families;
  bool packed = false;
  for (const std::vector<Projection>& family : fused_families()) {
    std::vector<NamedShape>& weights = families.emplace_back();
    for (const Projection one : family) {
      const ProjectionShape& shape = shape_of(projections, one);
      weights.push_back({named(std::string(shape.module_path) + ".weight"), {shape.out, shape.in}});
      packed |= stored.low_bits.contains(weights.back().first);
    }
  }
  if (packed) builder.pack(stored.compute);
  for (const std::vector<NamedShape>& family : families) add_matrices(builder, family, stored);
  builder.begin_no_decay();
  for (const std::vector<Projection>& family : fused_families()) {
    std::vector<NamedShape> biases;
    for (const Projection one : family) {
      const ProjectionShape& shape = shape_of(projections, one);
      if (shape.bias) biases.push_back({named(std::string(shape.module_path) + ".bias"), {shape.out}});
    }
    builder.family(biases);
  }
  builder.family({{named("input_layernorm.weight"), {spec.hidden}}});
  builder.family({{named("post_attention_layernorm.weight"), {spec.hidden}}});
  if (spec.qk_norm) {
    builder.family({{named("self_attn.q_norm.weight"), {spec.head_dim}}});
    builder.family({{named("self_attn.k_norm.weight"), {spec.head_dim}}});
  }
  return builder.finish();
}

ParameterGroup adapter_group(const DecoderSpec& spec, const AdapterSpec& adapter, int64_t layer) {
  GroupBuilder builder("layer." + std::to_string(layer) + ".adapter", true);
  for (const ProjectionShape& projection : layer_projections(spec)) {
    const auto& targets = adapter.target_modules;
    if (std::find(targets.begin(), targets.end(), projection.module) == targets.end()) continue;
    builder.family({{adapter_tensor_name(layer, projection, "lora_A.weight"), {adapter.rank, projection.in}}});
    builder.family({{adapter_tensor_name(layer, projection, "lora_B.weight"), {projection.out, adapter.rank}}});
    if (adapter.decomposed) builder.family({{adapter_tensor_name(layer, projection, kMagnitude), {projection.out}}});
  }
  return builder.finish();
}

}  // namespace

std::vector<ProjectionShape> layer_projections(const DecoderSpec& spec) {
  const int64_t queries = spec.heads * spec.head_dim;
  const int64_t keys = spec.kv_heads * spec.head_dim;
  return {
      {Projection::q, "q_proj", "self_attn.q_proj", spec.hidden, queries, spec.qkv_bias},
      {Projection::k, "k_proj", "self_attn.k_proj", spec.hidden, keys, spec.qkv_bias},
      {Projection::v, "v_proj", "self_attn.v_proj", spec.hidden, keys, spec.qkv_bias},
      {Projection::o, "o_proj", "self_attn.o_proj", queries, spec.hidden, spec.output_bias},
      {Projection::gate, "gate_proj", "mlp.gate_proj", spec.hidden, spec.ffn, spec.mlp_bias},
      {Projection::up, "up_proj", "mlp.up_proj", spec.hidden, spec.ffn, spec.mlp_bias},
      {Projection::down, "down_proj", "mlp.down_proj", spec.ffn, spec.hidden, spec.mlp_bias},
  };
}

std::vector<ParameterGroup> decoder_groups(const DecoderSpec& spec, const std::optional<AdapterSpec>& adapter,
                                           const StoredBase& stored) {
  SLUICE_CHECK(adapter || stored.low_bits.empty(), "a base in low bits is frozen");
  if (adapter) {
    SLUICE_CHECK(adapter->rank > 0 && !adapter->target_modules.empty(), "an adapter needs a rank and targets");
    for (const std::string& target : adapter->target_modules) {
      const auto projections = layer_projections(spec);
      SLUICE_CHECK(
          std::any_of(projections.begin(), projections.end(), [&](const auto& p) { return p.module == target; }),
          "unresolved LoRA target (see resolve_lora_targets): " + target);
    }
  }
  const bool base_trains = !adapter.has_value();
  std::vector<ParameterGroup> groups;
  groups.push_back(embedding_group(spec, base_trains));
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    groups.push_back(layer_group(spec, layer, base_trains, stored));
    if (adapter) groups.push_back(adapter_group(spec, *adapter, layer));
  }
  if (!spec.tied_head) groups.push_back(projection_group(spec, base_trains));
  groups.push_back(head_group(spec, base_trains));
  return groups;
}

const ParameterTensor* find_tensor(const ParameterGroup& group, std::string_view name) {
  const auto found = std::find_if(group.tensors.begin(), group.tensors.end(),
                                  [&](const ParameterTensor& tensor) { return tensor.name == name; });
  return found == group.tensors.end() ? nullptr : &*found;
}

std::string layer_tensor_name(int64_t layer, std::string_view rest) {
  return "model.layers." + std::to_string(layer) + "." + std::string(rest);
}

std::string adapter_tensor_name(int64_t layer, const ProjectionShape& projection, std::string_view rest) {
  return "base_model.model." + layer_tensor_name(layer, projection.module_path) + "." + std::string(rest);
}

}  // namespace sluice::models
