#include <gtest/gtest.h>

#include "models/decoder.h"
#include "tests/unit/models/test_files.h"

namespace sluice::models {
namespace {

using TestJson = nlohmann::ordered_json;

DecoderSpec spec_of(const TestJson& config) {
  const TemporaryFolder folder;
  return read_decoder_spec(folder.write("config.json", config.dump()));
}

TestJson patched(const std::string& family, const TestJson& patch) {
  TestJson config = config_of(family);
  for (const auto& [key, value] : patch.items()) config[key] = value;
  return config;
}

TestJson without(TestJson config, const std::string& key) {
  config.erase(key);
  return config;
}

// ---- what is read ----

TEST(DecoderSpec, ReadsEverySizeOfAConfig) {
  const DecoderSpec spec =
      spec_of(patched("llama", {{"attention_bias", true}, {"mlp_bias", true}, {"pad_token_id", 7}}));
  EXPECT_EQ(spec.family, "llama");
  EXPECT_EQ(spec.layers, 3);
  EXPECT_EQ(spec.hidden, 48);
  EXPECT_EQ(spec.ffn, 80);
  EXPECT_EQ(spec.vocabulary, 50);
  EXPECT_EQ(spec.heads, 6);
  EXPECT_EQ(spec.kv_heads, 3);
  EXPECT_EQ(spec.head_dim, 10);
  EXPECT_EQ(spec.positions_max, 64);
  EXPECT_EQ(spec.norm_epsilon, 1e-5);
  EXPECT_TRUE(spec.qkv_bias && spec.output_bias && spec.mlp_bias);
  EXPECT_FALSE(spec.tied_head || spec.qk_norm);
  EXPECT_EQ(spec.rope.theta, 20000);
  EXPECT_EQ(spec.sliding_window, std::vector<int64_t>(3, 0));
  EXPECT_EQ(spec.padding_token, 7);
}

TEST(DecoderSpec, BiasesAndQkNormFollowTheFamily) {
  const DecoderSpec mistral = spec_of(config_of("mistral"));
  EXPECT_FALSE(mistral.qkv_bias || mistral.output_bias || mistral.qk_norm);
  const DecoderSpec qwen2 = spec_of(config_of("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.output_bias || qwen2.mlp_bias || qwen2.qk_norm);
  const DecoderSpec qwen3 = spec_of(config_of("qwen3"));
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias || qwen3.output_bias);
}

TEST(DecoderSpec, NullKeyValueHeadsMeansAllHeadsInEveryFamily) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    EXPECT_EQ(spec_of(patched(family, {{"num_key_value_heads", nullptr}})).kv_heads, 6) << family;
  }
}

TEST(DecoderSpec, AbsentKeyValueHeadsMeanTheFamilysDefault) {
  const TestJson wide = {{"num_attention_heads", 64}, {"hidden_size", 128}};
  EXPECT_EQ(spec_of(without(patched("llama", wide), "num_key_value_heads")).kv_heads, 64);
  EXPECT_EQ(spec_of(without(patched("mistral", wide), "num_key_value_heads")).kv_heads, 8);
  EXPECT_EQ(spec_of(without(patched("qwen2", wide), "num_key_value_heads")).kv_heads, 32);
  EXPECT_EQ(spec_of(without(patched("qwen3", wide), "num_key_value_heads")).kv_heads, 32);
}

TEST(DecoderSpec, HeadDimNullOrAbsentIsHiddenOverHeadsButForQwen3) {
  for (const char* family : {"llama", "mistral", "qwen2"}) {
    EXPECT_EQ(spec_of(patched(family, {{"head_dim", nullptr}})).head_dim, 8) << family;
    EXPECT_EQ(spec_of(without(config_of(family), "head_dim")).head_dim, 8) << family;
  }
  EXPECT_EQ(spec_of(without(config_of("qwen3"), "head_dim")).head_dim, 128);
}

TEST(DecoderSpec, NegativePaddingTokenCountsFromTheEnd) {
  EXPECT_EQ(spec_of(patched("llama", {{"pad_token_id", -1}})).padding_token, 49);
  EXPECT_FALSE(spec_of(config_of("llama")).padding_token.has_value());
}

TEST(DecoderSpec, MistralSlidesInEveryLayerAndByDefault) {
  EXPECT_EQ(spec_of(patched("mistral", {{"sliding_window", 16}})).sliding_window, std::vector<int64_t>(3, 16));
  EXPECT_EQ(spec_of(without(config_of("mistral"), "sliding_window")).sliding_window, std::vector<int64_t>(3, 4096));
  EXPECT_EQ(spec_of(config_of("mistral")).sliding_window, std::vector<int64_t>(3, 0));
}

TEST(DecoderSpec, QwenSlidesFromMaxWindowLayersOnOnlyWhenAsked) {
  TestJson config = without(config_of("qwen2"), "layer_types");
  config.update({{"use_sliding_window", true}, {"sliding_window", 16}, {"max_window_layers", 1}});
  EXPECT_EQ(spec_of(config).sliding_window, (std::vector<int64_t>{0, 16, 16}));
  config["use_sliding_window"] = false;
  EXPECT_EQ(spec_of(config).sliding_window, std::vector<int64_t>(3, 0));
}

TEST(DecoderSpec, LayerTypesDecideOverMaxWindowLayers) {
  const DecoderSpec spec =
      spec_of(patched("qwen3", {{"use_sliding_window", true},
                                {"sliding_window", 16},
                                {"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}}}));
  EXPECT_EQ(spec.sliding_window, (std::vector<int64_t>{16, 0, 16}));
}

TEST(DecoderSpec, FieldsOfGenerationAndStorageDoNotMatter) {
  const DecoderSpec spec = spec_of(patched("llama", {{"torch_dtype", "bfloat16"},
                                                     {"temperature", 0.6},
                                                     {"is_llama_config", true},
                                                     {"rope_interleaved", false},
                                                     {"transformers.js_config", {{"dtype", "q4"}}},
                                                     {"architectures", {"LlamaForCausalLM"}}}));
  EXPECT_EQ(spec.layers, 3);
}

// ---- rotary embeddings, in both styles ----

// transformers 5: all in rope_parameters. transformers 4: rope_theta beside rope_scaling, "type" or "rope_type".
std::vector<TestJson> in_all_styles(const std::string& type, const TestJson& parameters) {
  std::vector<TestJson> configs;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    for (const char* type_key : {"rope_type", "type"}) {
      TestJson config = without(config_of("llama"), "rope_parameters");
      config[key] = parameters;
      config[key][type_key] = type;
      if (std::string(key) == "rope_parameters") {
        config[key]["rope_theta"] = 500000;
      } else {
        config["rope_theta"] = 500000.0;
      }
      configs.push_back(config);
    }
  }
  return configs;
}

TEST(RopeSpec, DefaultThetaIs10000) {
  EXPECT_EQ(spec_of(without(config_of("llama"), "rope_parameters")).rope.theta, 10000);
  EXPECT_EQ(spec_of(patched("llama", {{"rope_parameters", nullptr}, {"rope_scaling", nullptr}})).rope.theta, 10000);
}

TEST(RopeSpec, LinearInAllStyles) {
  for (const TestJson& config : in_all_styles("linear", {{"factor", 4}})) {
    const RopeSpec rope = spec_of(config).rope;
    EXPECT_EQ(rope.type, RopeType::linear);
    EXPECT_EQ(rope.factor, 4);
    EXPECT_EQ(rope.theta, 500000);
  }
}

TEST(RopeSpec, Llama3InAllStyles) {
  const TestJson parameters = {
      {"factor", 32.0}, {"low_freq_factor", 1.5}, {"high_freq_factor", 4.5}, {"original_max_position_embeddings", 32}};
  for (const TestJson& config : in_all_styles("llama3", parameters)) {
    const RopeSpec rope = spec_of(config).rope;
    EXPECT_EQ(rope.type, RopeType::llama3);
    EXPECT_EQ(rope.factor, 32);
    EXPECT_EQ(rope.low_freq_factor, 1.5);
    EXPECT_EQ(rope.high_freq_factor, 4.5);
    EXPECT_EQ(rope.original_positions_max, 32);
  }
}

TEST(RopeSpec, YarnInAllStyles) {
  const TestJson parameters = {{"factor", 4.0},
                               {"original_max_position_embeddings", 16},
                               {"attention_factor", 1.25},
                               {"beta_fast", 16},
                               {"beta_slow", 2},
                               {"mscale", 0.7},
                               {"mscale_all_dim", 0.9},
                               {"truncate", false}};
  for (const TestJson& config : in_all_styles("yarn", parameters)) {
    const RopeSpec rope = spec_of(config).rope;
    EXPECT_EQ(rope.type, RopeType::yarn);
    EXPECT_EQ(rope.factor, 4);
    EXPECT_EQ(rope.original_positions_max, 16);
    EXPECT_EQ(rope.attention_factor, 1.25);
    EXPECT_EQ(rope.beta_fast, 16);
    EXPECT_EQ(rope.beta_slow, 2);
    EXPECT_EQ(rope.mscale, 0.7);
    EXPECT_EQ(rope.mscale_all_dim, 0.9);
    EXPECT_FALSE(rope.truncate);
  }
}

TEST(RopeSpec, YarnDefaults) {
  const RopeSpec rope = spec_of(patched("llama", {{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}}}})).rope;
  EXPECT_EQ(rope.original_positions_max, 64);
  EXPECT_EQ(rope.beta_fast, 32);
  EXPECT_EQ(rope.beta_slow, 1);
  EXPECT_TRUE(rope.truncate);
  EXPECT_FALSE(rope.attention_factor || rope.mscale || rope.mscale_all_dim);
}

TEST(RopeSpec, YarnNullFactorComesFromThePositions) {
  const TestJson yarn = {{"rope_type", "yarn"}, {"factor", nullptr}, {"original_max_position_embeddings", 16}};
  EXPECT_EQ(spec_of(patched("llama", {{"rope_parameters", yarn}})).rope.factor, 4);
}

TEST(RopeSpec, OriginalPositionsBesideTheParametersWin) {
  TestJson config = patched("llama", {{"original_max_position_embeddings", 8}});
  config["rope_parameters"] = {{"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 16}};
  EXPECT_EQ(spec_of(config).rope.original_positions_max, 8);
}

// ---- what is refused ----

struct RefusedConfig {
  const char* what;
  const char* family;
  TestJson patch;
  const char* field;    // named in the message, in quotes
  const char* message;  // part of it
};

TestJson rope(const TestJson& parameters) { return {{"rope_parameters", parameters}}; }

std::vector<RefusedConfig> refused_configs() {
  return {
      {"other_family", "llama", {{"model_type", "gemma3"}}, "model_type", "llama, mistral, qwen2, qwen3"},
      {"classifier",
       "llama",
       {{"architectures", {"LlamaForSequenceClassification"}}},
       "architectures",
       "LlamaForCausalLM"},
      {"gelu", "llama", {{"hidden_act", "gelu"}}, "hidden_act", "is \"gelu\""},
      {"pretraining_tp", "llama", {{"pretraining_tp", 2}}, "pretraining_tp", "is 2"},
      {"attention_dropout", "qwen2", {{"attention_dropout", 0.1}}, "attention_dropout", "is 0.1"},
      {"partial_rotary", "llama", {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor", "is 0.5"},
      {"quantised_by_number", "llama", {{"quantization_config", {{"quant_method", 4}}}}, "quantization_config", "4"},
      {"storage_of_another_type",
       "llama",
       {{"quantization_config", {{"quant_method", "bitsandbytes"}, {"bnb_4bit_quant_storage", 8}}}},
       "quantization_config",
       "bnb_4bit_quant_storage"},
      {"quantised", "llama", {{"quantization_config", {{"quant_method", "gptq"}}}}, "quantization_config", "gptq"},
      {"own_code", "llama", {{"auto_map", {{"AutoModel", "x.Y"}}}}, "auto_map", "brings its own code"},
      {"interleaved", "llama", {{"rope_interleaved", true}}, "rope_interleaved", "interleaved"},
      {"mrope", "qwen2", {{"use_mrope", true}}, "use_mrope", "multimodal"},
      {"not_causal", "llama", {{"is_causal", false}}, "is_causal", "causal"},
      {"encoder_decoder", "llama", {{"is_encoder_decoder", true}}, "is_encoder_decoder", "decoders"},
      {"cross_attention", "llama", {{"add_cross_attention", true}}, "add_cross_attention", "cross-attention"},
      {"per_layer",
       "llama",
       {{"per_layer_config", {{"0", {{"hidden_size", 4}}}}}},
       "per_layer_config",
       "different shapes"},
      {"unknown_field", "llama", {{"logit_scale", 0.5}}, "logit_scale", "is not known here"},
      {"misspelt_field", "llama", {{"atention_bias", true}}, "atention_bias", "nearest known field: 'attention_bias'"},
      {"mistral_attention_bias", "mistral", {{"attention_bias", true}}, "attention_bias", "no attention biases"},
      {"mistral_layer_types",
       "mistral",
       {{"layer_types", {"full_attention", "full_attention", "full_attention"}}},
       "layer_types",
       "ministral"},
      {"qwen2_attention_bias", "qwen2", {{"attention_bias", false}}, "attention_bias", "always has biases"},
      {"qwen3_mlp_bias", "qwen3", {{"mlp_bias", true}}, "mlp_bias", "no biases in its MLP"},
      {"llama_sliding", "llama", {{"sliding_window", 16}}, "sliding_window", "no sliding window"},
      {"llama_layer_types",
       "llama",
       {{"layer_types", {"full_attention", "sliding_attention", "full_attention"}}},
       "layer_types",
       "full_attention"},
      {"layer_types_count", "qwen2", {{"layer_types", {"full_attention"}}}, "layer_types", "1 entries for 3 layers"},
      {"layer_types_kind",
       "qwen2",
       {{"layer_types", {"full_attention", "linear_attention", "full_attention"}}},
       "layer_types",
       "linear_attention"},
      {"sliding_without_window",
       "qwen2",
       {{"layer_types", {"full_attention", "sliding_attention", "full_attention"}}},
       "layer_types",
       "give no window"},
      {"window_zero", "mistral", {{"sliding_window", 0}}, "sliding_window", "must lie between 1"},
      {"kv_heads_not_divisor", "llama", {{"num_key_value_heads", 4}}, "num_key_value_heads", "must divide"},
      {"hidden_not_multiple",
       "llama",
       {{"hidden_size", 50}},
       "hidden_size",
       "must be a multiple of num_attention_heads"},
      {"heads_wider_than_any_model",
       "qwen3",
       {{"num_attention_heads", 1 << 22}, {"num_key_value_heads", 1}, {"head_dim", 8}},
       "head_dim",
       "wider than"},
      {"odd_head_dim", "llama", {{"head_dim", 9}}, "head_dim", "cannot be rotated"},
      {"qwen3_null_head_dim", "qwen3", {{"head_dim", nullptr}}, "head_dim", "128"},
      {"size_text", "llama", {{"hidden_size", "48"}}, "hidden_size", "must be an integer"},
      {"size_fraction", "llama", {{"num_hidden_layers", 2.5}}, "num_hidden_layers", "must be an integer"},
      {"size_zero", "llama", {{"num_hidden_layers", 0}}, "num_hidden_layers", "must lie between 1"},
      {"size_negative", "llama", {{"vocab_size", -1}}, "vocab_size", "must lie between 1"},
      {"size_huge", "llama", {{"intermediate_size", 1ull << 63}}, "intermediate_size", "must lie between 1"},
      {"size_null", "llama", {{"hidden_size", nullptr}}, "hidden_size", "is needed"},
      {"size_boolean", "llama", {{"hidden_size", true}}, "hidden_size", "must be an integer"},
      {"epsilon_zero", "llama", {{"rms_norm_eps", 0}}, "rms_norm_eps", "above zero"},
      {"epsilon_text", "llama", {{"rms_norm_eps", "1e-5"}}, "rms_norm_eps", "must be a number"},
      {"tied_text", "llama", {{"tie_word_embeddings", "yes"}}, "tie_word_embeddings", "true or false"},
      {"padding_outside", "llama", {{"pad_token_id", 50}}, "pad_token_id", "must lie between -50 and 49"},
      {"rope_not_object", "llama", {{"rope_scaling", 2}}, "rope_scaling", "must be an object"},
      {"rope_two_fields",
       "llama",
       {{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}},
       "rope_scaling",
       "contradicts rope_parameters"},
      {"rope_two_thetas", "llama", {{"rope_theta", 1.0}}, "rope_theta", "contradicts"},
      {"rope_two_types", "llama", rope({{"type", "linear"}, {"rope_type", "yarn"}, {"factor", 2}}),
       "rope_parameters.type", "contradicts"},
      {"rope_dynamic", "llama", rope({{"rope_type", "dynamic"}, {"factor", 2.0}}), "rope_parameters.rope_type",
       "default, linear, llama3, yarn"},
      {"rope_longrope", "llama", rope({{"rope_type", "longrope"}}), "rope_parameters.rope_type", "is \"longrope\""},
      {"rope_mrope_old_key", "llama", rope({{"type", "mrope"}}), "rope_parameters.type", "is \"mrope\""},
      {"rope_per_layer_type", "llama", rope({{"full_attention", {{"rope_type", "default"}}}}),
       "rope_parameters.full_attention", "is not known here"},
      {"rope_partial", "llama", rope({{"rope_type", "default"}, {"partial_rotary_factor", 0.25}}),
       "rope_parameters.partial_rotary_factor", "is 0.25"},
      {"rope_factor_unused", "llama", rope({{"rope_type", "default"}, {"factor", 2.0}}), "rope_parameters.factor",
       "is not known here"},
      {"rope_factor_missing", "llama", rope({{"rope_type", "linear"}}), "rope_parameters.factor", "is needed"},
      {"rope_factor_zero", "llama", rope({{"rope_type", "linear"}, {"factor", 0}}), "rope_parameters.factor",
       "above zero"},
      {"rope_theta_negative", "llama", rope({{"rope_theta", -1}}), "rope_parameters.rope_theta", "above zero"},
      {"llama3_low_missing", "llama", rope({{"rope_type", "llama3"}, {"factor", 2.0}, {"high_freq_factor", 4}}),
       "rope_parameters.low_freq_factor", "is needed"},
      {"llama3_low_above_high", "llama",
       rope({{"rope_type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}),
       "rope_parameters.high_freq_factor", "above low_freq_factor"},
      {"yarn_factor_missing", "llama", rope({{"rope_type", "yarn"}}), "rope_parameters.factor", "is needed"},
      {"yarn_betas", "llama", rope({{"rope_type", "yarn"}, {"factor", 2}, {"beta_fast", 1}, {"beta_slow", 2}}),
       "rope_parameters.beta_fast", "below beta_slow"},
      {"yarn_short_factor", "llama", rope({{"rope_type", "yarn"}, {"factor", 2}, {"short_factor", {1.0}}}),
       "rope_parameters.short_factor", "is not known here"},
  };
}

class RefusedDecoderSpec : public testing::TestWithParam<RefusedConfig> {};

TEST_P(RefusedDecoderSpec, NamesFileFieldAndReason) {
  const RefusedConfig& refused = GetParam();
  const TemporaryFolder folder;
  const auto file = folder.write("config.json", patched(refused.family, refused.patch).dump());
  const std::string message = setup_error_of([&] { read_decoder_spec(file); });
  expect_contains(message, file.string() + ": field '" + refused.field + "' is ");
  expect_contains(message, refused.message);
}

INSTANTIATE_TEST_SUITE_P(All, RefusedDecoderSpec, testing::ValuesIn(refused_configs()),
                         [](const auto& info) { return std::string(info.param.what); });

TEST(DecoderSpecRefusal, MissingFieldsAreNamed) {
  for (const char* key :
       {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    const TemporaryFolder folder;
    const auto file = folder.write("config.json", without(config_of("llama"), key).dump());
    expect_contains(setup_error_of([&] { read_decoder_spec(file); }), "field '" + std::string(key) + "' is absent");
  }
}

TEST(DecoderSpecRefusal, BrokenJsonNamesLineAndColumn) {
  const TemporaryFolder folder;
  const auto file = folder.write("config.json", "{\n  \"model_type\": \"llama\",\n  oops\n}");
  const std::string message = setup_error_of([&] { read_decoder_spec(file); });
  expect_contains(message, file.string());
  expect_contains(message, "line 3");
}

TEST(DecoderSpecRefusal, AKeyTwiceIsAnError) {
  const TemporaryFolder folder;
  const auto file = folder.write("config.json", R"({"model_type":"llama","model_type":"qwen2"})");
  expect_contains(setup_error_of([&] { read_decoder_spec(file); }), "the key \"model_type\" stands twice");
}

TEST(DecoderSpecRefusal, MissingFile) {
  const TemporaryFolder folder;
  expect_contains(setup_error_of([&] { read_decoder_spec(folder.path() / "config.json"); }), "no such file");
}

TEST(DecoderSpecRefusal, AFolderInPlaceOfTheFile) {
  const TemporaryFolder folder;
  expect_contains(setup_error_of([&] { read_decoder_spec(folder.path()); }), "not a regular file");
}

}  // namespace
}  // namespace sluice::models
