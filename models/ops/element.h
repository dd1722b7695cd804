// Element access that vectorises: load to fp32, compute, store rounded to nearest even.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "runtime/core/check.h"
#include "runtime/core/dtype.h"

namespace sluice::models {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

// Place of a type's entry in tables of kernels.
inline constexpr size_t kElementTypes = 3;
inline size_t element_type(Dtype dtype) {
  SLUICE_CHECK(dtype == Dtype::f32 || dtype == Dtype::bf16 || dtype == Dtype::f16, "kernels compute in f32, bf16, f16");
  return dtype == Dtype::f32 ? 0 : dtype == Dtype::bf16 ? 1 : 2;
}

// Calls body with the pointer typed.
template <class Body>
void with_elements(const void* at, Dtype dtype, const Body& body) {
  if (dtype == Dtype::f32) return body(static_cast<const float*>(at));
  dtype == Dtype::bf16 ? body(static_cast<const Bf16*>(at)) : body(static_cast<const F16*>(at));
}
template <class Body>
void with_elements(void* at, Dtype dtype, const Body& body) {
  if (dtype == Dtype::f32) return body(static_cast<float*>(at));
  dtype == Dtype::bf16 ? body(static_cast<Bf16*>(at)) : body(static_cast<F16*>(at));
}

inline float load(const float* p) { return *p; }
inline float load(const Bf16* p) { return std::bit_cast<float>(static_cast<uint32_t>(p->bits) << 16); }
// By integers: GCC 12 makes no vectors of F16C's conversions.
inline float load(const F16* p) {
  const uint32_t magnitude = p->bits & 0x7fffu, sign = static_cast<uint32_t>(p->bits & 0x8000u) << 16;
  const uint32_t normal = (magnitude << 13) + (magnitude >= 0x7c00u ? 224u << 23 : 112u << 23);
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  return std::bit_cast<float>((magnitude < 0x400u ? std::bit_cast<uint32_t>(subnormal) : normal) | sign);
}

inline void store(float* p, float value) { *p = value; }
inline void store(Bf16* p, float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  p->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
// As float_to_f16 (core/half.h) without branches. Beside 0.5 a number's last bit is 2^-24, a subnormal's unit.
inline void store(F16* p, float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  const uint32_t finite = magnitude < 0x477ff000u ? normal : 0x7c00u;
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t half = magnitude < 0x38800000u ? subnormal : finite;
  p->bits = static_cast<uint16_t>(sign | (magnitude > 0x7f800000u ? 0x7e00u : half));
}
template <class T>
float rounded(float value) {
  T t;
  store(&t, value);
  return load(&t);
}

}  // namespace sluice::models
