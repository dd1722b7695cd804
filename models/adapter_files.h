// A peft LoRA directory: adapter_config.json and adapter_model.safetensors, as peft 0.21 reads and writes them.
#pragma once

#include <filesystem>
#include <string>

#include "models/decoder.h"
#include "models/safetensors.h"

namespace sluice::models {

inline constexpr const char* kAdapterConfigFile = "adapter_config.json";
inline constexpr const char* kAdapterWeightsFile = "adapter_model.safetensors";

struct AdapterDirectory {
  AdapterSpec spec;  // targets resolved for the model
  TensorIndex tensors;
  std::string base_model;  // as the adapter names it, may be empty: information only
};

// Throws SetupError naming file and field for whatever is not LoRA or DoRA on every layer alike (modules_to_save,
// rank_pattern, bias, ...), and as TensorIndex does. Shapes: see locate_adapter_weights.
AdapterDirectory read_adapter_directory(const std::filesystem::path& directory, const DecoderSpec& spec);

// What the adapter names as its base; may be empty. Throws SetupError when there is no adapter_config.json to read.
std::string base_model_of_adapter(const std::filesystem::path& directory);

// The text of adapter_config.json for an adapter of ours. `base_model` is what peft loads the base from.
std::string adapter_config_json(const AdapterSpec& adapter, const std::filesystem::path& base_model);

}  // namespace sluice::models
