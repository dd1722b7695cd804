#include "runtime/train/model_record.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/core/result.h"
#include "runtime/train/checksums.h"

namespace sluice::train {
namespace {

nlohmann::ordered_json record_of(const models::RopeSpec& rope) {
  const auto or_null = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  return {
      {"type", static_cast<int>(rope.type)},
      {"theta", rope.theta},
      {"factor", rope.factor},
      {"low_freq_factor", rope.low_freq_factor},
      {"high_freq_factor", rope.high_freq_factor},
      {"original_positions_max", rope.original_positions_max},
      {"beta_fast", rope.beta_fast},
      {"beta_slow", rope.beta_slow},
      {"attention_factor", or_null(rope.attention_factor)},
      {"mscale", or_null(rope.mscale)},
      {"mscale_all_dim", or_null(rope.mscale_all_dim)},
      {"truncate", rope.truncate},
  };
}

// Names come sorted, so that other shards of the same weights give the same sum.
uint64_t sample_of(const models::TensorIndex& weights) {
  constexpr int64_t kSampleBytes = 4096;
  RunningSum sum;
  std::vector<char> sample;
  for (const auto& [name, tensor] : weights.tensors) {
    std::string described = name + ' ' + std::string(name_of(tensor.dtype));
    for (const int64_t size : tensor.shape) described += ' ' + std::to_string(size);
    sum.add(std::as_bytes(std::span(described)));
    sample.resize(static_cast<size_t>(std::min(kSampleBytes, tensor.bytes)));
    const std::filesystem::path& path = weights.files[static_cast<size_t>(tensor.file)];
    std::ifstream file(path, std::ios::binary);
    file.seekg(tensor.offset + (tensor.bytes - static_cast<int64_t>(sample.size())) / 2);
    if (!sample.empty() && !file.read(sample.data(), static_cast<std::streamsize>(sample.size())))
      throw SetupError(
          path.string() + ": tensor '" + name + "' at byte " + std::to_string(tensor.offset) + " cannot be read",
          "check the file and the drive");
    sum.add(std::as_bytes(std::span(sample)));
  }
  return sum.digest();
}

}  // namespace

nlohmann::ordered_json record_of(const ModelSetup& setup) {
  const models::DecoderSpec& spec = setup.spec;
  nlohmann::ordered_json record = {
      {"family", spec.family},
      {"layers", spec.layers},
      {"hidden", spec.hidden},
      {"ffn", spec.ffn},
      {"vocabulary", spec.vocabulary},
      {"heads", spec.heads},
      {"kv_heads", spec.kv_heads},
      {"head_dim", spec.head_dim},
      {"positions_max", spec.positions_max},
      {"norm_epsilon", spec.norm_epsilon},
      {"tied_head", spec.tied_head},
      {"qkv_bias", spec.qkv_bias},
      {"output_bias", spec.output_bias},
      {"mlp_bias", spec.mlp_bias},
      {"qk_norm", spec.qk_norm},
      {"sliding_window", spec.sliding_window},
      {"padding_token", spec.padding_token ? nlohmann::ordered_json(*spec.padding_token) : nlohmann::ordered_json()},
      {"rope", record_of(spec.rope)},
  };
  if (setup.adapter) record["base_weights_checksum"] = sample_of(setup.base);
  return record;
}

}  // namespace sluice::train
