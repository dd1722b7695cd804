// The draws that stochastic rounding takes, the same on every device: a function of a key and the element's index.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SLUICE_ON_ANY_DEVICE __host__ __device__
#else
#define SLUICE_ON_ANY_DEVICE
#endif

namespace sluice::optim {

// Of one group and step.
struct RoundingKey {
  uint32_t before = 0, between = 0;
};

// Mixes the bits of a counter: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 18.
constexpr uint64_t split_mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

constexpr RoundingKey rounding_key(uint64_t seed, int64_t step, int group) {
  const uint64_t mixed =
      split_mix(split_mix(split_mix(seed) ^ static_cast<uint64_t>(step)) ^ static_cast<uint64_t>(group));
  return {static_cast<uint32_t>(mixed), static_cast<uint32_t>(mixed >> 32)};
}

inline constexpr uint32_t kFirstDrawFactor = 0x7feb352du, kSecondDrawFactor = 0x846ca68bu;

// 32 bits for the element: its low half rounds m, its high half v. Two multiplications after which every input bit
// flips every output bit with a probability near one half (lowbias32 of Wellons' hash prospector, 2018). Static: each
// translation unit is compiled for a processor of its own.
SLUICE_ON_ANY_DEVICE static inline constexpr uint32_t rounding_draw(RoundingKey key, uint32_t index) {
  uint32_t x = index + key.before;
  x = (x ^ (x >> 16)) * kFirstDrawFactor;
  x = ((x ^ (x >> 15)) + key.between) * kSecondDrawFactor;
  return x ^ (x >> 16);
}

// The bf16 below or above, above with the probability that the value lies in that part of the way there. `draw`: 16
// bits.
SLUICE_ON_ANY_DEVICE static inline constexpr uint16_t round_by_draw(uint32_t float_bits, uint32_t draw) {
  return static_cast<uint16_t>((float_bits + draw) >> 16);
}

}  // namespace sluice::optim
