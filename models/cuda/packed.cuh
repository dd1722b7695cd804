// Elements of a row in registers: loaded 16 bytes at a time where the row allows it, computed in fp32, rounded once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "models/cuda/stream.h"
#include "runtime/core/dtype.h"
#include "runtime/core/pack.cuh"

namespace sluice::models::cuda {

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(__half value) { return __half2float(value); }
template <class T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
// As it would come back from memory.
template <class T>
__device__ float rounded(float value) {
  return to_float(from_float<T>(value));
}

template <class T, int kWidth>
__device__ void load(const T* from, float (&to)[kWidth]) {
  const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(from);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = to_float(pack.at[i]);
}
template <class T, int kWidth>
__device__ void store(T* to, const float (&from)[kWidth]) {
  Pack<T, kWidth> pack;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) pack.at[i] = from_float<T>(from[i]);
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

// Calls body with the pointer typed.
template <class Body>
void with_elements(void* at, Dtype dtype, const Body& body) {
  if (dtype == Dtype::f32) return body(static_cast<float*>(at));
  dtype == Dtype::bf16 ? body(static_cast<__nv_bfloat16*>(at)) : body(static_cast<__half*>(at));
}
template <class Body>
void with_elements(const void* at, Dtype dtype, const Body& body) {
  if (dtype == Dtype::f32) return body(static_cast<const float*>(at));
  dtype == Dtype::bf16 ? body(static_cast<const __nv_bfloat16*>(at)) : body(static_cast<const __half*>(at));
}

template <class T>
inline constexpr int kWidest = 16 / sizeof(T);

// Whether all of these start, and rows of `width` elements follow each other, at multiples of 16 bytes. Null is fine.
template <class T>
bool packs(int64_t width, std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers)
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  return width % kWidest<T> == 0;
}

// Every thread of the block gets the sum, always added in the same order. `shared`: 32 floats; all threads call it.
__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}
__device__ inline float block_sum(float value, float* shared) {
  value = warp_sum(value);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __syncthreads();  // whoever still reads what an earlier sum left there
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  return warp_sum(lane < blockDim.x / 32 ? shared[lane] : 0.0f);
}

}  // namespace sluice::models::cuda
