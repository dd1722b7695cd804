// Element types, and the exact split of an fp32 master weight into a bf16 compute weight and 16 more bits.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "runtime/core/check.h"

namespace sluice {

enum class Dtype : uint8_t { f32, bf16, f16, i16, i32, u8, i8 };

constexpr int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
    case Dtype::i32:
      return 4;
    case Dtype::u8:
    case Dtype::i8:
      return 1;
    default:
      return 2;
  }
}

constexpr std::string_view name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return "f32";
    case Dtype::bf16:
      return "bf16";
    case Dtype::f16:
      return "f16";
    case Dtype::i16:
      return "i16";
    case Dtype::i32:
      return "i32";
    case Dtype::u8:
      return "u8";
    case Dtype::i8:
      return "i8";
  }
  return "?";
}

// A tensor handed to a kernel starts at a multiple of this: MKL's results change with alignment.
inline constexpr int64_t kTensorAlignmentBytes = 64;
// Offsets of tensors inside a parameter group are multiples of this many elements: a block of 8-bit optimizer states
// (core/state_layout.h) holds one tensor's.
inline constexpr int64_t kTensorAlignmentElements = 256;

// bits(master) = (bits(hi) << 16) + lo, exactly, for every bit pattern (arithmetic modulo 2^32).
// hi is the bf16 nearest to master, a tie going away from zero so that lo fits in int16.
struct SplitMaster {
  uint16_t hi;
  int16_t lo;
};

constexpr SplitMaster split_master(float master) {
  const uint32_t bits = std::bit_cast<uint32_t>(master);
  const uint32_t hi = (bits + 0x8000u) >> 16;
  return {static_cast<uint16_t>(hi), static_cast<int16_t>(bits - (hi << 16))};
}

constexpr float join_master(uint16_t hi, int16_t lo) {
  return std::bit_cast<float>((static_cast<uint32_t>(hi) << 16) + static_cast<uint32_t>(static_cast<int32_t>(lo)));
}

constexpr float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Round to nearest, ties to even, as every framework does; NaN stays NaN.
constexpr uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace sluice
