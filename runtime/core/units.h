// Quantities with their unit in the type, so that bytes are never added to microseconds.
#pragma once

#include <compare>
#include <cstdint>
#include <string>

namespace sluice {

struct Bytes {
  int64_t count = 0;
  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes operator+(Bytes other) const { return {count + other.count}; }
  constexpr Bytes operator-(Bytes other) const { return {count - other.count}; }
  constexpr Bytes operator*(int64_t times) const { return {count * times}; }
  constexpr Bytes& operator+=(Bytes other) {
    count += other.count;
    return *this;
  }
  constexpr Bytes& operator-=(Bytes other) {
    count -= other.count;
    return *this;
  }
};

struct Microseconds {
  double count = 0;
  constexpr auto operator<=>(const Microseconds&) const = default;
  constexpr Microseconds operator+(Microseconds other) const { return {count + other.count}; }
  constexpr Microseconds operator*(double times) const { return {count * times}; }
  constexpr Microseconds& operator+=(Microseconds other) {
    count += other.count;
    return *this;
  }
};

struct BytesPerSecond {
  double count = 0;
  constexpr auto operator<=>(const BytesPerSecond&) const = default;
};

constexpr Microseconds operator/(Bytes work, BytesPerSecond rate) {
  return {static_cast<double>(work.count) / rate.count * 1e6};
}

constexpr Bytes KiB(int64_t n) { return {n << 10}; }
constexpr Bytes MiB(int64_t n) { return {n << 20}; }
constexpr Bytes GiB(int64_t n) { return {n << 30}; }

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int64_t round_down(int64_t value, int64_t multiple) { return value / multiple * multiple; }

// "1.42 GiB", "512 B": for people. Two decimals from KiB on.
std::string to_string(Bytes bytes);
// "3.2 s", "14 ms", "2 h 05 min": for people.
std::string to_string(Microseconds time);

}  // namespace sluice
