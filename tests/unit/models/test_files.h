// Small files for the tests of models/: a folder that goes away, raw safetensors, config.json of each family.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "models/safetensors.h"
#include "runtime/core/result.h"

namespace sluice::models {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sluice_models_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + pattern);
    path_ = std::filesystem::canonical(pattern);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
    return file;
  }

 private:
  std::filesystem::path path_;
};

inline std::string length_prefix(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>((length >> (8 * i)) & 0xff);
  return bytes;
}

inline std::string raw_safetensors(const std::string& header, size_t data_bytes) {
  return length_prefix(header.size()) + header + std::string(data_bytes, 'x');
}

// The file that the plan describes, every byte of data 'x'.
inline std::string planned_safetensors(const std::vector<NewTensor>& tensors) {
  const TensorFileLayout layout = plan_tensor_file(tensors, {{"format", "pt"}});
  return layout.header + std::string(static_cast<size_t>(layout.file_bytes) - layout.header.size(), 'x');
}

// The message of the SetupError that `action` must throw; "" (and a failure) when it throws none.
inline std::string setup_error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const SetupError& error) {
    EXPECT_FALSE(error.error().hint.empty()) << "no fix in: " << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no SetupError";
  return "";
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

// As transformers 5 saves them, with odd sizes: 6 heads over 3 of keys and values, head_dim not hidden / heads.
inline nlohmann::ordered_json config_of(const std::string& family) {
  nlohmann::ordered_json config = {
      {"attention_dropout", 0.0},
      {"bos_token_id", 1},
      {"dtype", "float32"},
      {"eos_token_id", 2},
      {"head_dim", 10},
      {"hidden_act", "silu"},
      {"hidden_size", 48},
      {"initializer_range", 0.02},
      {"intermediate_size", 80},
      {"max_position_embeddings", 64},
      {"model_type", family},
      {"num_attention_heads", 6},
      {"num_hidden_layers", 3},
      {"num_key_value_heads", 3},
      {"pad_token_id", nullptr},
      {"rms_norm_eps", 1e-5},
      {"rope_parameters", {{"rope_theta", 20000.0}, {"rope_type", "default"}}},
      {"tie_word_embeddings", false},
      {"transformers_version", "5.17.0"},
      {"use_cache", true},
      {"vocab_size", 50},
  };
  if (family == "llama") config.update({{"attention_bias", false}, {"mlp_bias", false}, {"pretraining_tp", 1}});
  if (family == "mistral") config.update({{"sliding_window", nullptr}});
  if (family == "qwen2" || family == "qwen3") {
    config.update({{"use_sliding_window", false},
                   {"sliding_window", nullptr},
                   {"max_window_layers", 28},
                   {"layer_types", {"full_attention", "full_attention", "full_attention"}}});
  }
  if (family == "qwen3") config["attention_bias"] = false;
  return config;
}

}  // namespace sluice::models
