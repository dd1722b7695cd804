// The key `special_tokens` (Axolotl's): right where they are the tokenizer's own.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/train/config_source.h"

namespace sluice::train {

// Nothing is ever padded, so any pad_token will do, with a note. Throws SetupError, which names all that are others.
void check_special_tokens(const Setting& given, const std::filesystem::path& base_model,
                          std::vector<std::string>& notes);

}  // namespace sluice::train
