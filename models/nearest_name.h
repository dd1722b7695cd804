// "Did you mean ...?": the candidate that differs from a name by the fewest inserted, deleted or changed characters.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::models {

inline size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// Empty when there are no candidates.
template <class Names>
std::string nearest_name(std::string_view name, const Names& candidates) {
  std::string nearest;
  size_t distance_min = SIZE_MAX;
  for (const auto& candidate : candidates) {
    const std::string_view other(candidate);
    // What lengths differ by is inserted or deleted, whatever else changes: a key of a million characters costs no
    // more.
    if (std::max(name.size(), other.size()) - std::min(name.size(), other.size()) >= distance_min) continue;
    const size_t distance = edit_distance(name, other);
    if (distance < distance_min) {
      distance_min = distance;
      nearest = std::string(candidate);
    }
  }
  return nearest;
}

}  // namespace sluice::models
