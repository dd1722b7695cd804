#include "models/decoder_json.h"

#include <array>
#include <nlohmann/json.hpp>

namespace sluice::models {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

Json to_json(const RopeSpec& rope) {
  constexpr std::array kTypes = {"default", "linear", "llama3", "yarn"};
  return {
      {"type", kTypes.at(static_cast<size_t>(rope.type))},
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

}  // namespace

Json to_json(const DecoderSpec& spec) {
  return {
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
      {"padding_token", or_null(spec.padding_token)},
      {"sliding_window", spec.sliding_window},
      {"rope", to_json(spec.rope)},
  };
}

}  // namespace sluice::models
