// Element access that vectorises: load to fp32, compute, store rounded to nearest even.
#pragma once

#include <bit>
#include <cstdint>

namespace sluice::models {

struct Bf16 {
  uint16_t bits;
};

inline float load(const float* p) { return *p; }
inline float load(const Bf16* p) { return std::bit_cast<float>(static_cast<uint32_t>(p->bits) << 16); }
inline void store(float* p, float value) { *p = value; }
inline void store(Bf16* p, float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  p->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
template <class T>
float rounded(float value) {
  T t;
  store(&t, value);
  return load(&t);
}

}  // namespace sluice::models
