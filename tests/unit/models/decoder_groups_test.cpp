#include "models/decoder_groups.h"

#include <gtest/gtest.h>

#include <set>

#include "runtime/core/dtype.h"

namespace sluice::models {
namespace {

// Odd on purpose: no product is a multiple of the alignment.
DecoderSpec odd_spec() {
  DecoderSpec spec;
  spec.family = "llama";
  spec.layers = 3;
  spec.hidden = 18;
  spec.ffn = 35;
  spec.vocabulary = 23;
  spec.heads = 6;
  spec.kv_heads = 3;
  spec.head_dim = 10;
  spec.qkv_bias = spec.output_bias = spec.mlp_bias = spec.qk_norm = true;
  spec.sliding_window.assign(3, 0);
  return spec;
}

AdapterSpec odd_adapter() { return {5, 10, 0, {"q_proj", "v_proj", "down_proj"}}; }

std::vector<std::string> names_of(const std::vector<ParameterGroup>& groups) {
  std::vector<std::string> names;
  for (const ParameterGroup& group : groups) names.push_back(group.name);
  return names;
}

const ParameterTensor& tensor(const ParameterGroup& group, const std::string& name) {
  const ParameterTensor* found = find_tensor(group, name);
  EXPECT_NE(found, nullptr) << name;
  return *found;
}

TEST(DecoderGroups, OrderAndTrainabilityWithoutAdapter) {
  const auto groups = decoder_groups(odd_spec(), {});
  EXPECT_EQ(names_of(groups),
            (std::vector<std::string>{"embedding", "layer.0", "layer.1", "layer.2", "lm_head", "head"}));
  for (const ParameterGroup& group : groups) EXPECT_TRUE(group.trainable) << group.name;
}

TEST(DecoderGroups, OrderAndTrainabilityWithAdapter) {
  const auto groups = decoder_groups(odd_spec(), odd_adapter());
  EXPECT_EQ(names_of(groups),
            (std::vector<std::string>{"embedding", "layer.0", "layer.0.adapter", "layer.1", "layer.1.adapter",
                                      "layer.2", "layer.2.adapter", "lm_head", "head"}));
  for (const ParameterGroup& group : groups) {
    EXPECT_EQ(group.trainable, group.name.ends_with(".adapter")) << group.name;
  }
}

// Invariants of parameter_group.h, for every group of every kind.
void expect_sound(const ParameterGroup& group) {
  EXPECT_EQ(group.elements % kTensorAlignmentElements, 0) << group.name;
  EXPECT_EQ(group.decay_elements % kTensorAlignmentElements, 0) << group.name;
  int64_t end = 0;
  std::set<std::string> names;
  for (const ParameterTensor& tensor : group.tensors) {
    EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name << " twice";
    EXPECT_GE(tensor.offset, end) << tensor.name << " overlaps the one before";
    int64_t elements = 1;
    for (const int64_t dimension : tensor.shape) elements *= dimension;
    EXPECT_EQ(tensor.elements, elements);
    const bool decays = tensor.offset < group.decay_elements;
    EXPECT_EQ(decays, tensor.shape.size() == 2) << tensor.name;  // matrices decay; norms and biases are vectors
    end = tensor.offset + tensor.elements;
    EXPECT_TRUE(!decays || end <= group.decay_elements) << tensor.name;
  }
  EXPECT_LE(end, group.elements);
  EXPECT_LT(group.elements - end, kTensorAlignmentElements);
}

TEST(DecoderGroups, AreAlignedDisjointAndSplitByDecay) {
  for (const bool tied : {false, true}) {
    for (const bool bare : {false, true}) {
      DecoderSpec spec = odd_spec();
      spec.tied_head = tied;
      if (bare) spec.qkv_bias = spec.output_bias = spec.mlp_bias = spec.qk_norm = false;
      for (const ParameterGroup& group : decoder_groups(spec, {})) expect_sound(group);
      for (const ParameterGroup& group : decoder_groups(spec, odd_adapter())) expect_sound(group);
    }
  }
}

TEST(DecoderGroups, FusedFamiliesFollowWithoutAGapAndStartAligned) {
  const ParameterGroup layer = decoder_groups(odd_spec(), {})[2];
  const auto expect_fused = [&](const std::vector<std::string>& members) {
    int64_t end = -1;
    for (const std::string& rest : members) {
      const ParameterTensor& one = tensor(layer, layer_tensor_name(1, rest));
      if (end < 0) {
        EXPECT_EQ(one.offset % kTensorAlignmentElements, 0) << rest;
      } else {
        EXPECT_EQ(one.offset, end) << rest;
      }
      end = one.offset + one.elements;
    }
  };
  expect_fused({"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"});
  expect_fused({"mlp.gate_proj.weight", "mlp.up_proj.weight"});
  expect_fused({"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"});
  expect_fused({"mlp.gate_proj.bias", "mlp.up_proj.bias"});
  for (const char* alone : {"self_attn.o_proj.weight", "mlp.down_proj.weight", "self_attn.o_proj.bias",
                            "mlp.down_proj.bias", "input_layernorm.weight", "post_attention_layernorm.weight",
                            "self_attn.q_norm.weight", "self_attn.k_norm.weight"}) {
    expect_fused({alone});
  }
}

TEST(DecoderGroups, OptionalTensorsAreAbsentWhereTheModelLacksThem) {
  DecoderSpec spec = odd_spec();
  spec.qkv_bias = spec.output_bias = spec.mlp_bias = spec.qk_norm = false;
  const ParameterGroup layer = decoder_groups(spec, {})[1];
  EXPECT_EQ(layer.tensors.size(), 9u);
  EXPECT_EQ(find_tensor(layer, layer_tensor_name(0, "self_attn.q_proj.bias")), nullptr);
  EXPECT_EQ(find_tensor(layer, layer_tensor_name(0, "self_attn.q_norm.weight")), nullptr);
}

TEST(DecoderGroups, AnUntiedProjectionIsAGroupAsLargeAsTheEmbedding) {
  DecoderSpec spec = odd_spec();
  const std::vector<ParameterGroup> untied = decoder_groups(spec, {});
  const ParameterGroup& projection = untied[untied.size() - 2];
  EXPECT_NE(find_tensor(projection, "lm_head.weight"), nullptr);
  EXPECT_EQ(projection.elements, untied.front().elements);
  EXPECT_EQ(projection.decay_elements, projection.elements);
  spec.tied_head = true;
  const std::vector<ParameterGroup> tied = decoder_groups(spec, {});
  EXPECT_EQ(tied.size(), untied.size() - 1);
  for (const std::vector<ParameterGroup>& groups : {tied, untied}) {
    EXPECT_EQ(groups.back().decay_elements, 0);
    EXPECT_NE(find_tensor(groups.back(), "model.norm.weight"), nullptr);
  }
}

TEST(DecoderGroups, AdapterTensorsHavePeftsNamesAndShapes) {
  const ParameterGroup group = decoder_groups(odd_spec(), odd_adapter())[4];
  ASSERT_EQ(group.tensors.size(), 6u);
  const std::string layer = "base_model.model.model.layers.1.";
  EXPECT_EQ(group.tensors[0].name, layer + "self_attn.q_proj.lora_A.weight");
  EXPECT_EQ(group.tensors[0].shape, (std::vector<int64_t>{5, 18}));
  EXPECT_EQ(group.tensors[1].name, layer + "self_attn.q_proj.lora_B.weight");
  EXPECT_EQ(group.tensors[1].shape, (std::vector<int64_t>{60, 5}));
  EXPECT_EQ(group.tensors[3].name, layer + "self_attn.v_proj.lora_B.weight");
  EXPECT_EQ(group.tensors[3].shape, (std::vector<int64_t>{30, 5}));
  EXPECT_EQ(group.tensors[4].name, layer + "mlp.down_proj.lora_A.weight");
  EXPECT_EQ(group.tensors[4].shape, (std::vector<int64_t>{5, 35}));
  for (const ParameterTensor& one : group.tensors) EXPECT_EQ(one.offset % kTensorAlignmentElements, 0) << one.name;
  EXPECT_EQ(group.decay_elements, group.elements);
}

TEST(DecoderGroups, MagnitudesFollowTheFactorsOfTheirProjection) {
  AdapterSpec adapter = odd_adapter();
  adapter.decomposed = true;
  const ParameterGroup group = decoder_groups(odd_spec(), adapter)[4];
  ASSERT_EQ(group.tensors.size(), 9u);
  EXPECT_EQ(group.tensors[2].name, "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector");
  EXPECT_EQ(group.tensors[2].shape, (std::vector<int64_t>{60}));
  EXPECT_EQ(group.tensors[8].name, "base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector");
  EXPECT_EQ(group.tensors[8].shape, (std::vector<int64_t>{18}));
  EXPECT_EQ(group.decay_elements, group.elements);
}

TEST(DecoderGroupsDeath, UnresolvedTargetIsTheCallersMistake) {
  EXPECT_DEATH(decoder_groups(odd_spec(), AdapterSpec{4, 8, 0, {"q"}}), "unresolved LoRA target");
}

}  // namespace
}  // namespace sluice::models
