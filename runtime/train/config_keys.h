// Which keys a job may have, with their other spellings.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::train {

// Axolotl's name where it has one; LLaMA-Factory's and Hugging Face's as aliases. Keys inside `offload` carry its name
// and a point: "offload.max_gpu".
struct Key {
  std::string_view name;
  std::vector<std::string_view> aliases;
};
std::span<const Key> keys();
// Null when no key is spelled so.
const Key* find_key(std::string_view spelling);

// "did you mean 'x'?", or that the keys are listed by --help. `prefix`: "" or "offload.".
std::string advice_for_unknown_key(std::string_view spelling, std::string_view prefix);
// "did you mean 'x'?", or empty when none of `names` is near.
std::string nearest_key(std::string_view spelling, std::span<const std::string_view> names);

}  // namespace sluice::train
