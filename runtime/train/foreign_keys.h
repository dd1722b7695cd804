// Keys of other trainers that we know by name: accepted where they change nothing, refused where they would.
#pragma once

#include <string_view>
#include <vector>

namespace sluice::train {

// A key of Axolotl, LLaMA-Factory or the Hugging Face trainer that is not one of ours.
struct ForeignKey {
  enum class Effect {
    none,     // changes nothing here, whatever its value: accepted, and noted when set
    refused,  // accepted only when unset, or at a value that means what we do anyway
    examined  // its value decides: config.cpp reads it
  };
  std::string_view name;  // with a final '*': all keys that begin so
  Effect effect = Effect::refused;
  std::string_view advice;                        // why it changes nothing, or what to do instead
  std::vector<std::string_view> harmless_values;  // beside null, false, 0, "", [], {}
};
const ForeignKey* find_foreign_key(std::string_view spelling);

}  // namespace sluice::train
