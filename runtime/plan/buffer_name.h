// What a buffer is called: literals and numbers, which become text only for who reads it ("slot.ring.0.4096.back[2]").
// A search for a plan asks for buffers by name a million times.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace sluice::plan {

class BufferName {
 public:
  BufferName() = default;
  // `what` is a literal, as every end is. Numbers count from 0.
  explicit BufferName(std::string_view what, int64_t a = kAbsent, int64_t b = kAbsent, int64_t c = kAbsent)
      : what_(what), numbers_{a, b, c} {}

  // The same with something behind it (".back"), in place of what was there.
  BufferName with_end(std::string_view end) const;
  // One of a ring: "[2]".
  BufferName at_place(int place) const;

  std::string_view what() const { return what_; }
  std::string_view end() const { return end_; }
  std::string text() const;
  size_t hash() const;
  friend bool operator==(const BufferName&, const BufferName&) = default;

 private:
  static constexpr int64_t kAbsent = -1;

  std::string_view what_, end_;
  std::array<int64_t, 3> numbers_ = {kAbsent, kAbsent, kAbsent};
  int64_t place_ = kAbsent;
};

}  // namespace sluice::plan

template <>
struct std::hash<sluice::plan::BufferName> {
  size_t operator()(const sluice::plan::BufferName& name) const { return name.hash(); }
};
