// Neighbours in memory that move as one, and grids of blocks.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice {

template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T at[kWidth];
};

constexpr int64_t blocks_for(int64_t work, int64_t each) { return (work + each - 1) / each; }
inline dim3 grid(int64_t x, int64_t y = 1) { return {static_cast<unsigned>(x), static_cast<unsigned>(y)}; }

}  // namespace sluice
