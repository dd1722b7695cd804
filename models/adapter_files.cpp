#include "models/adapter_files.h"

#include <array>
#include <cmath>

#include "models/json_file.h"
#include "models/model_folder.h"
#include "runtime/core/result.h"

namespace sluice::models {

namespace {

constexpr int64_t kRankMax = 1 << 20;

// What an adapter may have beyond plain LoRA on every layer alike.
struct Refused {
  std::string_view key;
  std::string_view why;
};
constexpr std::array kMustBeUnset = {
    Refused{"use_qalora", "QA-LoRA is not supported"},
    Refused{"use_bdlora", "BD-LoRA is not supported"},
    Refused{"lora_bias", "a bias on lora_B is not supported"},
    Refused{"fan_in_fan_out", "transposed base weights are not supported"},
    Refused{"modules_to_save", "training whole modules beside the adapter is not supported"},
    Refused{"trainable_token_indices", "training single tokens beside the adapter is not supported"},
    Refused{"target_parameters", "adapters on bare parameters are not supported"},
    Refused{"rank_pattern", "one rank for all modules is supported"},
    Refused{"alpha_pattern", "one lora_alpha for all modules is supported"},
    Refused{"exclude_modules", "an adapter on some layers only is not supported"},
    Refused{"layers_to_transform", "an adapter on some layers only is not supported"},
    Refused{"layers_pattern", "an adapter on some layers only is not supported"},
    Refused{"layer_replication", "repeated layers are not supported"},
    Refused{"alora_invocation_tokens", "activated LoRA is not supported"},
    Refused{"megatron_config", "Megatron layers are not supported"},
    Refused{"arrow_config", "Arrow routing is not supported"},
    Refused{"kasa_config", "KaSA is not supported"},
    Refused{"velora_config", "VeLoRA is not supported"},
    Refused{"monteclora_config", "MonteCLoRA is not supported"},
    Refused{"loftq_config", "LoftQ changes the base weights"},
    Refused{"corda_config", "CorDA changes the base weights"},
    Refused{"lora_ga_config", "LoRA-GA changes the base weights"},
};

// They say how the adapter was made or loaded, not what it computes.
constexpr std::array kHarmless = {"auto_mapping",        "peft_version",           "revision",   "inference_mode",
                                  "megatron_core",       "qalora_group_size",      "eva_config", "runtime_config",
                                  "ensure_weight_tying", "base_model_name_or_path"};

std::vector<std::string> read_targets(JsonFields& config, const DecoderSpec& spec) {
  const Json* value = config.present("target_modules");
  const bool is_text = value != nullptr && value->is_string();
  if (is_text && *value != "all-linear") {
    config.fail("target_modules", "a regular expression is not supported",
                "write the list of module names, or \"all-linear\"");
  }
  const std::vector<std::string> asked =
      is_text ? std::vector<std::string>{value->get<std::string>()} : config.texts("target_modules");
  try {
    return resolve_lora_targets(spec, asked, false);
  } catch (const SetupError& error) {
    throw SetupError(Error{error.error().code,
                           config.file().string() + ": field 'target_modules': " + error.error().message,
                           error.error().hint});
  }
}

AdapterSpec read_adapter_config(JsonFields& config, const DecoderSpec& spec) {
  config.require("peft_type", {"LORA"}, "only LoRA adapters are supported");
  config.require("task_type", {"CAUSAL_LM"}, "only adapters of causal language models are supported");
  config.require("bias", {"none"}, "training biases beside the adapter is not supported");
  // The others (pissa, olora, corda, loftq, ...) also change the base weights when they start.
  config.require("init_lora_weights", {true, false, "gaussian", "eva", "orthogonal"},
                 "this way to start an adapter changes the base weights");
  for (const Refused& field : kMustBeUnset) config.require_unset(field.key, std::string(field.why));
  for (const char* key : kHarmless) config.ignore(key);

  AdapterSpec adapter;
  adapter.rank = config.integer("r", {}, 1, kRankMax);
  adapter.alpha = config.positive("lora_alpha");
  adapter.rank_stabilised = config.boolean("use_rslora", false);
  adapter.decomposed = config.boolean("use_dora", false);
  adapter.dropout = config.number("lora_dropout", 0);
  if (!(adapter.dropout >= 0 && adapter.dropout < 1)) {
    config.fail("lora_dropout", "must be at least 0 and below 1", "correct the value");
  }
  adapter.target_modules = read_targets(config, spec);
  config.refuse_unknown("save the adapter as plain LoRA, or remove the field if you know that it changes nothing");
  return adapter;
}

// peft declares lora_alpha an int; 16.0 would load, but read oddly beside peft's own files.
Json number_json(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

}  // namespace

AdapterDirectory read_adapter_directory(const std::filesystem::path& directory, const DecoderSpec& spec) {
  for (const char* file : {kAdapterConfigFile, kAdapterWeightsFile}) refuse_link_out(directory, file);
  const Json parsed = read_json_object(directory / kAdapterConfigFile);
  JsonFields config(directory / kAdapterConfigFile, "", parsed);
  AdapterDirectory adapter;
  adapter.base_model = config.text("base_model_name_or_path", "");
  adapter.spec = read_adapter_config(config, spec);
  adapter.tensors = TensorIndex::of_file(directory / kAdapterWeightsFile);
  return adapter;
}

std::string base_model_of_adapter(const std::filesystem::path& directory) {
  const Json parsed = read_json_object(directory / kAdapterConfigFile);
  return JsonFields(directory / kAdapterConfigFile, "", parsed).text("base_model_name_or_path", "");
}

std::string adapter_config_json(const AdapterSpec& adapter, const std::filesystem::path& base_model) {
  // The fields of peft 0.21's LoraConfig, in its order.
  const Json config = {
      {"alora_invocation_tokens", nullptr},
      {"alpha_pattern", Json::object()},
      {"arrow_config", nullptr},
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", base_model.string()},
      {"bias", "none"},
      {"corda_config", nullptr},
      {"ensure_weight_tying", false},
      {"eva_config", nullptr},
      {"exclude_modules", nullptr},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"kasa_config", nullptr},
      {"layer_replication", nullptr},
      {"layers_pattern", nullptr},
      {"layers_to_transform", nullptr},
      {"loftq_config", Json::object()},
      {"lora_alpha", number_json(adapter.alpha)},
      {"lora_bias", false},
      {"lora_dropout", adapter.dropout},
      {"lora_ga_config", nullptr},
      {"megatron_config", nullptr},
      {"megatron_core", "megatron.core"},
      {"modules_to_save", nullptr},
      {"monteclora_config", nullptr},
      {"peft_type", "LORA"},
      {"peft_version", "0.21.2"},
      {"qalora_group_size", 16},
      {"r", adapter.rank},
      {"rank_pattern", Json::object()},
      {"revision", nullptr},
      {"target_modules", adapter.target_modules},
      {"target_parameters", nullptr},
      {"task_type", "CAUSAL_LM"},
      {"trainable_token_indices", nullptr},
      {"use_bdlora", nullptr},
      {"use_dora", adapter.decomposed},
      {"use_qalora", false},
      {"use_rslora", adapter.rank_stabilised},
      {"velora_config", nullptr},
  };
  return config.dump(2) + "\n";
}

}  // namespace sluice::models
