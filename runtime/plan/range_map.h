// A value for every address: equal over ranges that are split when a part of them changes.
#pragma once

#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <utility>

namespace sluice::plan {

template <class Value>
class RangeMap {
 public:
  explicit RangeMap(Value everywhere = {}) { values_.emplace(std::numeric_limits<int64_t>::min(), everywhere); }

  // visit(begin, end, value&) for the pieces of [begin, end), in order.
  template <class Visit>
  void each(int64_t begin, int64_t end, const Visit& visit) {
    if (begin >= end) return;
    split(end);
    for (auto piece = split(begin); piece->first < end;) {
      const auto next = std::next(piece);
      visit(piece->first, next->first, piece->second);
      piece = next;
    }
  }

  void assign(int64_t begin, int64_t end, Value value) {
    if (begin >= end) return;
    const auto after = split(end);
    auto piece = split(begin);
    piece->second = std::move(value);
    values_.erase(std::next(piece), after);
    if constexpr (requires(const Value& a, const Value& b) { a == b; }) {
      if (after != values_.end() && after->second == piece->second) values_.erase(after);
      if (piece != values_.begin() && std::prev(piece)->second == piece->second) values_.erase(piece);
    }
  }

 private:
  typename std::map<int64_t, Value>::iterator split(int64_t at) {
    const auto after = values_.lower_bound(at);
    if (after != values_.end() && after->first == at) return after;
    return values_.emplace_hint(after, at, std::prev(after)->second);
  }

  std::map<int64_t, Value> values_;  // by first address
};

}  // namespace sluice::plan
