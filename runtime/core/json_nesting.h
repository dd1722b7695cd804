// How deep a JSON text nests, looked at before it is parsed. What walks a parsed value (prints, copies, compares it)
// calls itself once a level: a file of nothing but brackets would take the whole stack.
#pragma once

#include <string_view>

namespace sluice {

// Far above what configs, headers and states have.
inline constexpr int kJsonLevelsMax = 64;

constexpr bool nests_too_deep(std::string_view json) {
  int levels = 0;
  bool in_text = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_text) {
      if (c == '\\') ++i;
      if (c == '"') in_text = false;
      continue;
    }
    if (c == '"') in_text = true;
    if (c == '[' || c == '{') ++levels;
    if (c == ']' || c == '}') --levels;
    if (levels > kJsonLevelsMax) return true;
  }
  return false;
}

}  // namespace sluice
