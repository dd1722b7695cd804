// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3), the same on every
// device. Static: each translation unit is compiled for a processor of its own.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SLUICE_ANY_DEVICE __host__ __device__
#else
#define SLUICE_ANY_DEVICE
#endif

namespace sluice::models {

struct PhiloxDraws {
  uint32_t at[4];
};

// Four draws, by key and a counter of 128 bits.
SLUICE_ANY_DEVICE static inline PhiloxDraws philox(uint64_t key, uint64_t counter, uint32_t high_a, uint32_t high_b) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = high_a, c3 = high_b;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(b);
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace sluice::models
