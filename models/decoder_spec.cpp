// config.json -> DecoderSpec. Defaults and precedence are those of transformers 5.17 (configuration_llama.py,
// configuration_mistral.py, configuration_qwen2.py, configuration_qwen3.py, modeling_rope_utils.py): a field that is
// absent means here what it means there. A new family is a new row of kFamilies.
#include <algorithm>
#include <array>

#include "models/decoder.h"
#include "models/json_file.h"
#include "runtime/core/result.h"

namespace sluice::models {

namespace {

enum class AttentionBias { none, qkv_only, from_config };  // from_config: attention_bias, on q, k, v and o alike
enum class Windows { none, every_layer, by_layer_type };

struct Family {
  std::string_view model_type;
  std::string_view architecture;
  int64_t positions_max_default;
  int64_t kv_heads_default;  // 0: as many as heads
  int64_t head_dim_default;  // 0: hidden / heads
  AttentionBias attention_bias;
  bool mlp_bias_from_config;
  bool qk_norm;
  Windows windows;
  bool hidden_divisible_by_heads;  // transformers refuses the config otherwise, even with an explicit head_dim
};

constexpr std::array kFamilies = {
    Family{"llama", "LlamaForCausalLM", 2048, 0, 0, AttentionBias::from_config, true, false, Windows::none, true},
    Family{"mistral", "MistralForCausalLM", 131072, 8, 0, AttentionBias::none, false, false, Windows::every_layer,
           false},
    Family{"qwen2", "Qwen2ForCausalLM", 32768, 32, 0, AttentionBias::qkv_only, false, false, Windows::by_layer_type,
           false},
    Family{"qwen3", "Qwen3ForCausalLM", 32768, 32, 128, AttentionBias::from_config, false, true, Windows::by_layer_type,
           false},
};

constexpr int64_t kSlidingWindowDefault = 4096;
constexpr int64_t kMaxWindowLayersDefault = 28;
constexpr double kRopeThetaDefault = 10000;

// Bounds that keep every product of two sizes within 64 bits, far above any model.
constexpr int64_t kWidthMax = 1 << 24;
constexpr int64_t kLayersMax = 1 << 16;

// Fields that say how to generate, save, label or run a model, not what it computes from tokens in training.
constexpr std::array kHarmless = {
    // identity and storage
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "tokenizer_class",
    "unsloth_version", "unsloth_fixed", "transformers.js_config", "is_llama_config", "initializer_range",
    // how transformers runs it
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript", "use_bfloat16",
    "gradient_checkpointing", "_attn_implementation", "_attn_implementation_autoset", "attn_implementation",
    "_flash_attn_2_enabled", "_experts_implementation", "keys_to_ignore_at_inference", "tf_legacy_loss",
    "use_flash_attn", "chunk_size_feed_forward", "is_decoder",
    // tokens and generation (GenerationConfig)
    "bos_token_id", "eos_token_id", "sep_token_id", "unk_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature",
    "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate",
    "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "epsilon_cutoff", "eta_cutoff", "encoder_repetition_penalty",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
    "target_lookbehind", "num_beam_groups", "diversity_penalty", "max_new_tokens",
    // heads for other tasks
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "prefix"};

// Fields that change the arithmetic unless they have one of these values (or are absent or null).
struct MustBe {
  std::string_view key;
  std::vector<Json> values;
  std::string why;
};
const std::vector<MustBe>& must_be() {
  static const std::vector<MustBe> table = {
      {"hidden_act", {"silu"}, "only the silu activation is supported"},
      {"pretraining_tp", {1}, "products split over ranks (pretraining_tp) are not supported"},
      {"attention_dropout", {0.0}, "dropout inside attention is not supported"},
      {"hidden_dropout", {0.0}, "dropout is supported in LoRA adapters only"},
      {"embd_pdrop", {0.0}, "dropout is supported in LoRA adapters only"},
      {"resid_pdrop", {0.0}, "dropout is supported in LoRA adapters only"},
      {"partial_rotary_factor", {1.0}, "rotating a part of each head is not supported"},
      {"rope_interleaved", {false}, "interleaved rotary pairs are not supported"},
      {"use_mrope", {false}, "multimodal rotary positions are not supported"},
      {"is_causal", {true}, "only causal attention is supported"},
      {"is_encoder_decoder", {false}, "only decoders are supported"},
      {"add_cross_attention", {false}, "only decoders without cross-attention are supported"},
      {"cross_attention_hidden_size", {}, "only decoders without cross-attention are supported"},
      {"tie_encoder_decoder", {false}, "only decoders are supported"},
      {"use_qk_norm", {false}, "this family has no q/k norm"},
      {"pruned_heads", {Json::object()}, "pruned heads are not supported"},
      {"per_layer_config", {Json::object()}, "layers of different shapes are not supported"},
      {"compression_config",
       {},
       "compressed checkpoints are not supported; use the model's bf16, fp16 or fp32 weights"},
      {"auto_map", {}, "the model brings its own code, which is not run here"},
  };
  return table;
}

const Family& read_family(JsonFields& config) {
  const std::string model_type = config.text("model_type");
  std::string supported;
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return family;
    supported += (supported.empty() ? "" : ", ") + std::string(family.model_type);
  }
  config.fail("model_type", "this family is not supported", "use a model of one of: " + supported);
}

// A classifier or a bare body of the same family has other tensors and another loss.
void check_architecture(JsonFields& config, const Family& family) {
  const Json* value = config.present("architectures");
  if (value == nullptr || *value == Json::array({std::string(family.architecture)})) return;
  config.fail(
      "architectures", "only [\"" + std::string(family.architecture) + "\"] is supported for this model_type",
      "use the causal language model of this family, saved by its " + std::string(family.architecture) + " class");
}

void read_sizes(JsonFields& config, const Family& family, DecoderSpec& spec) {
  spec.family = family.model_type;
  spec.layers = config.integer("num_hidden_layers", {}, 1, kLayersMax);
  spec.hidden = config.integer("hidden_size", {}, 1, kWidthMax);
  spec.ffn = config.integer("intermediate_size", {}, 1, kWidthMax);
  spec.vocabulary = config.integer("vocab_size");
  spec.positions_max = config.integer("max_position_embeddings", family.positions_max_default);
  spec.norm_epsilon = config.positive("rms_norm_eps", 1e-6);
  spec.tied_head = config.boolean("tie_word_embeddings", false);
}

void read_heads(JsonFields& config, const Family& family, DecoderSpec& spec) {
  spec.heads = config.integer("num_attention_heads", {}, 1, kWidthMax);
  const bool kv_heads_given = config.find("num_key_value_heads") != nullptr;  // null: as many as heads, in every family
  const int64_t kv_heads_absent = kv_heads_given || family.kv_heads_default == 0 ? spec.heads : family.kv_heads_default;
  spec.kv_heads = config.integer("num_key_value_heads", kv_heads_absent, 1, kWidthMax);
  if (spec.heads % spec.kv_heads != 0) {
    config.fail("num_key_value_heads", "must divide num_attention_heads (" + std::to_string(spec.heads) + ")",
                "correct one of the two");
  }
  if (config.present("head_dim") == nullptr && family.head_dim_default != 0 && config.find("head_dim") != nullptr) {
    config.fail("head_dim", "this family needs a number",
                "write the size of one head; transformers' default is " + std::to_string(family.head_dim_default));
  }
  const bool derived = config.present("head_dim") == nullptr && family.head_dim_default == 0;
  if ((derived || family.hidden_divisible_by_heads) && spec.hidden % spec.heads != 0) {
    config.fail("hidden_size", "must be a multiple of num_attention_heads (" + std::to_string(spec.heads) + ")",
                "correct one of the two, or use a family whose head_dim stands for itself");
  }
  spec.head_dim =
      config.integer("head_dim", derived ? spec.hidden / spec.heads : family.head_dim_default, 1, kWidthMax);
  if (spec.heads * spec.head_dim > kWidthMax) {
    config.fail("head_dim", "all heads together are wider than " + std::to_string(kWidthMax) + ", which no model is",
                "correct it, or num_attention_heads");
  }
  if (spec.head_dim % 2 != 0) {
    config.fail("head_dim", "heads of " + std::to_string(spec.head_dim) + " cannot be rotated in pairs",
                "use an even head_dim (hidden_size / num_attention_heads where it is absent)");
  }
}

void read_biases(JsonFields& config, const Family& family, DecoderSpec& spec) {
  spec.qk_norm = family.qk_norm;
  if (family.attention_bias == AttentionBias::from_config) {
    spec.qkv_bias = spec.output_bias = config.boolean("attention_bias", false);
  } else if (family.attention_bias == AttentionBias::none) {
    config.require("attention_bias", {false}, "this family has no attention biases");
  } else {
    config.require("attention_bias", {}, "this family always has biases on q, k and v, and none on o");
    spec.qkv_bias = true;
  }
  if (family.mlp_bias_from_config) {
    spec.mlp_bias = config.boolean("mlp_bias", false);
  } else {
    config.require("mlp_bias", {false}, "this family has no biases in its MLP");
  }
}

int64_t padding_row(JsonFields& config, int64_t vocabulary) {
  const int64_t token = config.integer("pad_token_id", {}, -vocabulary, vocabulary - 1);
  return token < 0 ? vocabulary + token : token;  // torch.nn.Embedding counts from the end
}

// Qwen: layers from max_window_layers on slide when use_sliding_window says so, unless layer_types says it layer by
// layer.
void read_windows_by_layer_type(JsonFields& config, DecoderSpec& spec) {
  const bool used = config.boolean("use_sliding_window", false);
  const int64_t first = config.integer("max_window_layers", kMaxWindowLayersDefault, 0);
  const bool set_to_null = config.find("sliding_window") != nullptr && config.present("sliding_window") == nullptr;
  const int64_t window = config.integer("sliding_window", kSlidingWindowDefault);
  const bool slides = used && !set_to_null;
  if (config.present("layer_types") == nullptr) {
    for (int64_t i = 0; i < spec.layers; ++i) spec.sliding_window.push_back(slides && i >= first ? window : 0);
    return;
  }
  const std::vector<std::string> types = config.texts("layer_types");
  if (static_cast<int64_t>(types.size()) != spec.layers) {
    config.fail("layer_types", std::to_string(types.size()) + " entries for " + std::to_string(spec.layers) + " layers",
                "give one entry per layer");
  }
  for (const std::string& type : types) {
    if (type != "full_attention" && type != "sliding_attention") {
      config.fail("layer_types", "'" + type + "' is not supported", "supported: full_attention, sliding_attention");
    }
    if (type == "sliding_attention" && !slides) {
      config.fail("layer_types", "has sliding_attention, but use_sliding_window and sliding_window give no window",
                  "set use_sliding_window to true and sliding_window to its size, or use full_attention");
    }
    spec.sliding_window.push_back(type == "sliding_attention" ? window : 0);
  }
}

void read_windows(JsonFields& config, const Family& family, DecoderSpec& spec) {
  switch (family.windows) {
    case Windows::none:
      config.require("sliding_window", {}, "this family has no sliding window");
      config.require("use_sliding_window", {false}, "this family has no sliding window");
      config.require("layer_types",
                     {Json(std::vector<std::string>(static_cast<size_t>(spec.layers), "full_attention"))},
                     "every layer of this family is full_attention");
      spec.sliding_window.assign(static_cast<size_t>(spec.layers), 0);
      return;
    case Windows::every_layer: {
      const bool set_to_null = config.find("sliding_window") != nullptr && config.present("sliding_window") == nullptr;
      const int64_t window = set_to_null ? 0 : config.integer("sliding_window", kSlidingWindowDefault);
      spec.sliding_window.assign(static_cast<size_t>(spec.layers), window);
      if (config.find("layer_types") != nullptr) {
        config.fail("layer_types", "transformers reads a mistral config with layer_types as another family, ministral",
                    "remove the field when every layer attends alike");
      }
      return;
    }
    case Windows::by_layer_type:
      read_windows_by_layer_type(config, spec);
      return;
  }
}

// transformers 5 writes rope_parameters (with rope_theta inside); 4 wrote rope_scaling and rope_theta beside it.
// Either name holds either content: the first that is not empty counts.
std::string rope_key(JsonFields& config) {
  const Json* scaling = config.present("rope_scaling");
  const Json* parameters = config.present("rope_parameters");
  for (const auto& [key, value] : {std::pair("rope_scaling", scaling), std::pair("rope_parameters", parameters)}) {
    if (value != nullptr && !value->is_object()) config.fail(key, "must be an object or null", "correct the value");
  }
  const bool has_scaling = scaling != nullptr && !scaling->empty();
  const bool has_parameters = parameters != nullptr && !parameters->empty();
  if (has_scaling && has_parameters && *scaling != *parameters) {
    config.fail("rope_scaling", "contradicts rope_parameters", "keep one of the two fields");
  }
  return has_scaling ? "rope_scaling" : has_parameters ? "rope_parameters" : "";
}

RopeType read_rope_type(JsonFields& rope) {
  const Json* older = rope.present("type");
  const std::string key = rope.present("rope_type") != nullptr || older == nullptr ? "rope_type" : "type";
  if (older != nullptr && key == "rope_type" && *older != *rope.present("rope_type")) {
    rope.fail("type", "contradicts rope_type", "keep one of the two fields");
  }
  const std::string type = rope.text(key, "default");
  if (type == "default") return RopeType::standard;
  if (type == "linear") return RopeType::linear;
  if (type == "llama3") return RopeType::llama3;
  if (type == "yarn") return RopeType::yarn;
  rope.fail(key, "this kind of rotary scaling is not supported", "supported: default, linear, llama3, yarn");
}

double read_theta(JsonFields& config, JsonFields& rope) {
  const bool beside = config.present("rope_theta") != nullptr;
  const double theta_beside = config.positive("rope_theta", kRopeThetaDefault);
  const double theta = rope.positive("rope_theta", theta_beside);
  if (beside && theta != theta_beside) {
    config.fail("rope_theta", "contradicts the rope_theta of the rotary parameters", "keep one of the two fields");
  }
  return theta;
}

// Zero means "not given" in transformers (`mscale and mscale_all_dim`, `beta_fast or 32`).
std::optional<double> nonzero(JsonFields& rope, std::string_view key) {
  const double value = rope.number(key, 0);
  return value == 0 ? std::nullopt : std::optional(value);
}

void read_llama3(JsonFields& rope, RopeSpec& spec) {
  spec.factor = rope.positive("factor");
  spec.low_freq_factor = rope.positive("low_freq_factor");
  spec.high_freq_factor = rope.positive("high_freq_factor");
  if (spec.high_freq_factor <= spec.low_freq_factor) {
    rope.fail("high_freq_factor", "must be above low_freq_factor", "correct one of the two");
  }
}

void read_yarn(JsonFields& rope, RopeSpec& spec, int64_t positions_max) {
  const bool factor_is_null = rope.find("factor") != nullptr && rope.present("factor") == nullptr;
  spec.factor = factor_is_null ? static_cast<double>(positions_max) / static_cast<double>(spec.original_positions_max)
                               : rope.positive("factor");
  if (rope.present("attention_factor") != nullptr) spec.attention_factor = rope.positive("attention_factor");
  spec.beta_fast = nonzero(rope, "beta_fast").value_or(32);
  spec.beta_slow = nonzero(rope, "beta_slow").value_or(1);
  if (spec.beta_slow < 0 || spec.beta_fast < spec.beta_slow) {
    rope.fail("beta_fast", "must not be below beta_slow, nor either below zero", "correct one of the two");
  }
  spec.mscale = nonzero(rope, "mscale");
  spec.mscale_all_dim = nonzero(rope, "mscale_all_dim");
  spec.truncate = rope.boolean("truncate", true);
}

RopeSpec read_rope(JsonFields& config, int64_t positions_max) {
  const std::string key = rope_key(config);
  const Json none = Json::object();
  JsonFields rope(config.file(), key.empty() ? "" : key + ".", key.empty() ? none : *config.find(key));
  RopeSpec spec;
  spec.type = read_rope_type(rope);
  spec.theta = read_theta(config, rope);
  rope.require("partial_rotary_factor", {1.0}, "rotating a part of each head is not supported");
  rope.ignore("finetuned");  // of the first YaRN checkpoints; transformers does not read it
  if (spec.type == RopeType::linear) spec.factor = rope.positive("factor");
  if (spec.type == RopeType::llama3 || spec.type == RopeType::yarn) {
    const int64_t inside = rope.integer("original_max_position_embeddings", positions_max);
    spec.original_positions_max = config.integer("original_max_position_embeddings", inside);  // beside it: wins
  }
  if (spec.type == RopeType::llama3) read_llama3(rope, spec);
  if (spec.type == RopeType::yarn) read_yarn(rope, spec, positions_max);
  rope.refuse_unknown("remove the field if this kind of rotary scaling does not use it");
  return spec;
}

// What bitsandbytes quantised can be read; other formats cannot.
void check_quantization(JsonFields& config) {
  const Json* value = config.present("quantization_config");
  if (value == nullptr) return;
  const std::string fix =
      "use the model's bf16, fp16 or fp32 weights (adapter: qlora quantises them), or a checkpoint "
      "that bitsandbytes quantised";
  const bool named = value->is_object() && value->contains("quant_method") && (*value)["quant_method"].is_string();
  const std::string method = named ? (*value)["quant_method"].get<std::string>() : "";
  if (method != "bitsandbytes")
    config.fail("quantization_config",
                "checkpoints quantised with " + (method.empty() ? shown(*value) : method) + " are not supported", fix);
  if (value->contains("bnb_4bit_quant_storage") && (*value)["bnb_4bit_quant_storage"] != "uint8")
    config.fail("quantization_config", "only bnb_4bit_quant_storage uint8 is supported", fix);
}

}  // namespace

DecoderSpec read_decoder_spec(const std::filesystem::path& config_json) {
  const Json parsed = read_json_object(config_json);
  JsonFields config(config_json, "", parsed);
  const Family& family = read_family(config);
  check_architecture(config, family);
  for (const MustBe& field : must_be()) config.require(field.key, field.values, field.why);
  check_quantization(config);

  DecoderSpec spec;
  read_sizes(config, family, spec);
  read_heads(config, family, spec);
  read_biases(config, family, spec);
  read_windows(config, family, spec);
  spec.rope = read_rope(config, spec.positions_max);
  if (config.present("pad_token_id") != nullptr) spec.padding_token = padding_row(config, spec.vocabulary);

  for (const char* key : kHarmless) config.ignore(key);
  config.refuse_unknown("remove the field from config.json if you know that it changes nothing");
  return spec;
}

}  // namespace sluice::models
