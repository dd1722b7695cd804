#include "models/cuda/packed.cuh"
#include "models/cuda/sum_kernels.h"

namespace sluice::models::cuda {
namespace {

constexpr unsigned kThreads = 256;

// One block per run and stretch of columns.
template <class T, int kWidth>
__global__ void sum_columns(const T* x, float* runs, int64_t rows, int64_t width) {
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kWidth;
  if (column >= width) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRunTokens;
  const int64_t end = first + kRunTokens < rows ? first + kRunTokens : rows;
  float sum[kWidth] = {};
#pragma unroll 4
  for (int64_t row = first; row < end; ++row) {
    float value[kWidth];
    load<T, kWidth>(x + row * width + column, value);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] += value[i];
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) runs[static_cast<int64_t>(blockIdx.x) * width + column + i] = sum[i];
}

// One block per 32 columns: each of its warps adds a stretch of the runs, then the stretches are added in order.
constexpr int kStretches = 16;

template <class T>
__global__ void add_runs(const float* runs, int64_t count, int64_t width, T* y, Store store) {
  __shared__ float parts[kStretches][32];
  const unsigned lane = threadIdx.x % 32, stretch = threadIdx.x / 32;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  const int64_t each = (count + kStretches - 1) / kStretches;
  const int64_t end = (stretch + 1) * each < count ? (stretch + 1) * each : count;
  float sum = 0;
  if (column < width) {
#pragma unroll 4
    for (int64_t run = stretch * each; run < end; ++run) sum += runs[run * width + column];
  }
  parts[stretch][lane] = sum;
  __syncthreads();
  if (stretch != 0 || column >= width) return;
  float total = store == Store::accumulate ? to_float(y[column]) : 0.0f;
  for (const auto& part : parts) total += part[lane];
  y[column] = from_float<T>(total);
}

__global__ void add_losses(const double* losses, int64_t count, Store store, double* sum) {
  __shared__ double parts[kThreads];
  double own = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) own += losses[i];
  parts[threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = store == Store::accumulate ? *sum : 0.0;
  for (const double part : parts) total += part;
  *sum = total;
}

template <class Word>
__global__ void find_not_finite(const Word* words, int64_t count, Word exponent, uint32_t* bad) {
  bool found = false;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads)
    found |= (words[i] & exponent) == exponent;
  if (found) *bad = 1;
}

// Sixteen bytes at a time: fp32 words, or pairs of halves.
template <uint32_t kExponents>
__device__ bool not_finite(uint32_t word) {
  constexpr uint32_t kHigh = kExponents & 0xffff0000u, kLow = kExponents & 0x0000ffffu;
  return (word & kHigh) == kHigh || (kLow != 0 && (word & kLow) == kLow);
}
template <uint32_t kExponents>
__global__ void find_not_finite_packed(const uint4* packs_of_all, int64_t count, uint32_t* bad) {
  bool found = false;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
    const uint4 pack = packs_of_all[i];
    found |= not_finite<kExponents>(pack.x) || not_finite<kExponents>(pack.y) || not_finite<kExponents>(pack.z) ||
             not_finite<kExponents>(pack.w);
  }
  if (found) *bad = 1;
}

// Enough to fill any GPU; each thread takes several.
constexpr int64_t kBlocksMost = 1024;

}  // namespace

template <class T>
void column_runs(const void* x, float* runs, int64_t rows, int64_t width) {
  if (rows == 0) return;
  const auto launch = [&](auto pack) {
    sum_columns<T, pack><<<grid(runs_of(rows), blocks_for(width / pack, kThreads)), kThreads, 0, stream()>>>(
        static_cast<const T*>(x), runs, rows, width);
  };
  packs<T>(width, {x}) ? launch(std::integral_constant<int, kWidest<T>>{}) : launch(std::integral_constant<int, 1>{});
  check_launch("column_runs");
}
template void column_runs<float>(const void*, float*, int64_t, int64_t);
template void column_runs<__nv_bfloat16>(const void*, float*, int64_t, int64_t);
template void column_runs<__half>(const void*, float*, int64_t, int64_t);

void store_runs(const float* runs, int64_t count, int64_t width, GradientTarget y) {
  with_elements(y.data, y.dtype, [&](auto* target) {
    add_runs<<<grid(blocks_for(width, 32)), kStretches * 32, 0, stream()>>>(runs, count, width, target, y.store);
  });
  check_launch("store_runs");
}

void sum_losses(const double* losses, int64_t count, Store store, double* sum) {
  add_losses<<<1, kThreads, 0, stream()>>>(losses, count, store, sum);
  check_launch("sum_losses");
}

void check_finite(const void* elements, int64_t count, Dtype dtype, uint32_t* bad) {
  if (count == 0) return;
  const bool f32 = dtype == Dtype::f32, bf16 = dtype == Dtype::bf16;
  const auto blocks = [](int64_t work) {
    const int64_t wanted = blocks_for(work, kThreads);
    return grid(wanted < kBlocksMost ? wanted : kBlocksMost);
  };
  const int64_t bytes = count * size_of(dtype);
  if (bytes % 16 == 0 && reinterpret_cast<uintptr_t>(elements) % 16 == 0) {
    const auto* words = static_cast<const uint4*>(elements);
    if (f32) {
      find_not_finite_packed<0x7f800000u><<<blocks(bytes / 16), kThreads, 0, stream()>>>(words, bytes / 16, bad);
    } else if (bf16) {
      find_not_finite_packed<0x7f807f80u><<<blocks(bytes / 16), kThreads, 0, stream()>>>(words, bytes / 16, bad);
    } else {
      find_not_finite_packed<0x7c007c00u><<<blocks(bytes / 16), kThreads, 0, stream()>>>(words, bytes / 16, bad);
    }
  } else if (f32) {
    find_not_finite<uint32_t>
        <<<blocks(count), kThreads, 0, stream()>>>(static_cast<const uint32_t*>(elements), count, 0x7f800000u, bad);
  } else {
    const uint16_t exponent = bf16 ? 0x7f80 : 0x7c00;
    find_not_finite<uint16_t>
        <<<blocks(count), kThreads, 0, stream()>>>(static_cast<const uint16_t*>(elements), count, exponent, bad);
  }
  check_launch("check_finite");
}

}  // namespace sluice::models::cuda
