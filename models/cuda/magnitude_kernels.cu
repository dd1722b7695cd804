#include "models/cuda/magnitude_kernels.h"
#include "models/cuda/packed.cuh"

namespace sluice::models::cuda {
namespace {

constexpr unsigned kThreads = 256;

// One block per row.
template <class T, int kWidth>
__global__ void norm_of_rows(const T* w, const T* more, float scale, float* norms, int64_t width) {
  __shared__ float shared[32];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * width;
  float squares = 0;
  for (int64_t column = int64_t{threadIdx.x} * kWidth; column < width; column += int64_t{blockDim.x} * kWidth) {
    float value[kWidth], added[kWidth] = {};
    load<T, kWidth>(w + at + column, value);
    if (more != nullptr) load<T, kWidth>(more + at + column, added);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      value[i] += scale * added[i];
      squares += value[i] * value[i];
    }
  }
  const float sum = block_sum(squares, shared);
  if (threadIdx.x == 0) norms[blockIdx.x] = sqrtf(sum);
}

template <class T>
__global__ void divide_magnitudes(const T* magnitudes, const float* norms, float* factors, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) factors[i] = norms[i] > 0 ? to_float(magnitudes[i]) / norms[i] : 0.0f;
}

// Of a row: where it begins in x and in y.
struct Strides {
  int64_t x, y;
};

template <class T, int kWidth>
__global__ void scale_rows(const T* x, const float* factors, float shift, T* y, Strides strides, Store how,
                           int64_t packs_of_all, int64_t width) {
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pack >= packs_of_all) return;
  const int64_t row = pack * kWidth / width, column = pack * kWidth % width;
  T* target = y + row * strides.y + column;
  float value[kWidth], before[kWidth] = {};
  load<T, kWidth>(x + row * strides.x + column, value);
  if (how == Store::accumulate) load<T, kWidth>(target, before);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) value[i] = before[i] + value[i] * (factors[column + i] + shift);
  store<T, kWidth>(target, value);
}

// One block per run and stretch of columns.
template <class T, int kWidth>
__global__ void sum_products(const T* a, int64_t a_stride, const T* b, const float* divisors, float* runs, int64_t rows,
                             int64_t width) {
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kWidth;
  if (column >= width) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRunTokens;
  const int64_t end = first + kRunTokens < rows ? first + kRunTokens : rows;
  float sum[kWidth] = {};
#pragma unroll 4
  for (int64_t row = first; row < end; ++row) {
    float left[kWidth], right[kWidth];
    load<T, kWidth>(a + row * a_stride + column, left);
    load<T, kWidth>(b + row * width + column, right);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] += left[i] * right[i];
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float divisor = divisors[column + i];
    runs[static_cast<int64_t>(blockIdx.x) * width + column + i] = divisor > 0 ? sum[i] / divisor : 0.0f;
  }
}

}  // namespace

template <class T>
void row_norms(const void* w, const void* more, float scale, float* norms, int64_t rows, int64_t width) {
  if (rows == 0) return;
  const auto launch = [&](auto pack) {
    norm_of_rows<T, pack><<<grid(rows), kThreads, 0, stream()>>>(static_cast<const T*>(w), static_cast<const T*>(more),
                                                                 scale, norms, width);
  };
  packs<T>(width, {w, more}) ? launch(std::integral_constant<int, kWidest<T>>{})
                             : launch(std::integral_constant<int, 1>{});
  check_launch("row_norms");
}

template <class T>
void magnitude_factors(const void* magnitudes, const float* norms, float* factors, int64_t count) {
  if (count == 0) return;
  divide_magnitudes<<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(static_cast<const T*>(magnitudes),
                                                                                  norms, factors, count);
  check_launch("magnitude_factors");
}

template <class T>
void scale_columns(const void* x, int64_t x_stride, const float* factors, float shift, void* y, int64_t y_stride,
                   Store store, int64_t rows, int64_t width) {
  if (rows == 0) return;
  const auto launch = [&](auto pack) {
    const int64_t count = rows * width / pack;
    scale_rows<T, pack><<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(
        static_cast<const T*>(x), factors, shift, static_cast<T*>(y), Strides{x_stride, y_stride}, store, count, width);
  };
  packs<T>(width, {x, y}) && packs<T>(x_stride, {}) && packs<T>(y_stride, {})
      ? launch(std::integral_constant<int, kWidest<T>>{})
      : launch(std::integral_constant<int, 1>{});
  check_launch("scale_columns");
}

template <class T>
void product_runs(const void* a, int64_t a_stride, const void* b, const float* divisors, float* runs, int64_t rows,
                  int64_t width) {
  if (rows == 0) return;
  const auto launch = [&](auto pack) {
    sum_products<T, pack><<<grid(runs_of(rows), blocks_for(width / pack, kThreads)), kThreads, 0, stream()>>>(
        static_cast<const T*>(a), a_stride, static_cast<const T*>(b), divisors, runs, rows, width);
  };
  packs<T>(width, {a, b}) && packs<T>(a_stride, {}) ? launch(std::integral_constant<int, kWidest<T>>{})
                                                    : launch(std::integral_constant<int, 1>{});
  check_launch("product_runs");
}

#define SLUICE_MAGNITUDE_KERNELS(T)                                                                                   \
  template void row_norms<T>(const void*, const void*, float, float*, int64_t, int64_t);                              \
  template void magnitude_factors<T>(const void*, const float*, float*, int64_t);                                     \
  template void scale_columns<T>(const void*, int64_t, const float*, float, void*, int64_t, Store, int64_t, int64_t); \
  template void product_runs<T>(const void*, int64_t, const void*, const float*, float*, int64_t, int64_t);
SLUICE_MAGNITUDE_KERNELS(float)
SLUICE_MAGNITUDE_KERNELS(__nv_bfloat16)
SLUICE_MAGNITUDE_KERNELS(__half)
#undef SLUICE_MAGNITUDE_KERNELS

}  // namespace sluice::models::cuda
