#include "runtime/plan/buffer_name.h"

namespace sluice::plan {

BufferName BufferName::with_end(std::string_view end) const {
  BufferName name = *this;
  name.end_ = end;
  return name;
}

BufferName BufferName::at_place(int place) const {
  BufferName name = *this;
  name.place_ = place;
  return name;
}

std::string BufferName::text() const {
  std::string text(what_);
  for (const int64_t number : numbers_)
    if (number != kAbsent) text += '.' + std::to_string(number);
  text += end_;
  if (place_ != kAbsent) text += '[' + std::to_string(place_) + ']';
  return text;
}

size_t BufferName::hash() const {
  // Knuth's multiplier: numbers are small and in a row.
  constexpr size_t kFactor = 0x9E3779B97F4A7C15;
  const std::hash<std::string_view> hash_of;
  size_t hash = hash_of(what_) + (end_.empty() ? 0 : hash_of(end_));
  for (const int64_t number : numbers_) hash = (hash ^ static_cast<size_t>(number)) * kFactor;
  hash = (hash ^ static_cast<size_t>(place_)) * kFactor;
  return hash ^ hash >> 32;
}

}  // namespace sluice::plan
