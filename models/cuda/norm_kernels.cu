#include "models/cuda/norm_kernels.h"
#include "models/cuda/packed.cuh"
#include "runtime/core/check.h"

namespace sluice::models::cuda {
namespace {

// How a row lies over the threads of a block: thread t has the packs t, t + threads, ..., kPacks of them at most.
struct RowShape {
  int64_t width;
  float epsilon;
};

template <class T, int kWidth, int kPacks>
struct Row {
  float at[kPacks][kWidth];

  __device__ static int64_t column(int pack) { return (int64_t{pack} * blockDim.x + threadIdx.x) * kWidth; }
  __device__ void load_from(const T* row, int64_t width) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (column(p) < width) {
        load<T, kWidth>(row + column(p), at[p]);
      } else {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) at[p][i] = 0;
      }
  }
  __device__ void store_to(T* row, int64_t width) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (column(p) < width) store<T, kWidth>(row + column(p), at[p]);
  }
};

// body(a, b, c...) on the elements of rows that lie alike.
template <class Body, class First, class... Others>
__device__ void each(const Body& body, First& first, Others&... others) {
  constexpr int kPacks = sizeof(first.at) / sizeof(first.at[0]), kWidth = sizeof(first.at[0]) / sizeof(float);
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int i = 0; i < kWidth; ++i) body(first.at[p][i], others.at[p][i]...);
}

// Registers are shared by so many threads.
constexpr int threads_most(int packs) { return packs <= 4 ? 512 : 1024; }

// One block per row.
template <class T, int kWidth, int kPacks>
__global__ void __launch_bounds__(threads_most(kPacks))
    norm_rows(T* x, const T* addend, const T* w, T* y, RowShape shape) {
  __shared__ float shared[32];
  using Values = Row<T, kWidth, kPacks>;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * shape.width;
  Values values, weights;
  values.load_from(x + at, shape.width);
  if (addend != nullptr) {
    Values added;
    added.load_from(addend + at, shape.width);
    each([](float& value, float more) { value = rounded<T>(value + more); }, values, added);
    values.store_to(x + at, shape.width);
  }
  weights.load_from(w, shape.width);
  float squares = 0;
  each([&](float value) { squares += value * value; }, values);
  const float scale = rsqrtf(block_sum(squares, shared) / static_cast<float>(shape.width) + shape.epsilon);
  each([&](float& value, float weight) { value = rounded<T>(value * scale) * weight; }, values, weights);
  values.store_to(y + at, shape.width);
}

// n = x * s, s = rsqrt(mean(x^2) + e); dx = s * (dn - n * mean(dn * n)) with dn = dy * w; dw = sum of dy * n.
// One block per run of tokens, whose sum of dw it keeps in registers. The next row is on its way while one is summed.
template <class T, int kWidth, int kPacks>
__global__ void __launch_bounds__(threads_most(kPacks))
    norm_rows_backward(const T* x, const T* w, const T* dy, const T* residual, T* dx, float* weight_runs, int64_t rows,
                       RowShape shape) {
  __shared__ float shared[32];
  using Values = Row<T, kWidth, kPacks>;
  const int64_t width = shape.width, first = static_cast<int64_t>(blockIdx.x) * kRunTokens;
  const int64_t last = min(rows, first + kRunTokens) - 1;
  Values weights, sums{}, next_x, next_dy;
  weights.load_from(w, width);
  next_x.load_from(x + first * width, width);
  next_dy.load_from(dy + first * width, width);
  for (int64_t row = first; row <= last; ++row) {
    Values values = next_x, gradient = next_dy;
    const int64_t next = min(row + 1, last) * width;
    next_x.load_from(x + next, width);
    if (row < last) next_dy.load_from(dy + next, width);  // dx may lie over dy: the last row is not read again
    float squares = 0, dot = 0;
    each(
        [&](float value, float dy_value, float weight) {
          squares += value * value;
          dot += dy_value * weight * value;
        },
        values, gradient, weights);
    const float scale = rsqrtf(block_sum(squares, shared) / static_cast<float>(width) + shape.epsilon);
    const float mean = block_sum(dot, shared) * scale * scale / static_cast<float>(width);
    each([&](float& sum, float value, float dy_value) { sum += dy_value * (value * scale); }, sums, values, gradient);
    each([&](float& value, float dy_value, float weight) { value = scale * (dy_value * weight - value * mean); },
         values, gradient, weights);
    if (residual != nullptr) {
      Values rest;
      rest.load_from(residual + row * width, width);
      each([](float& value, float more) { value += more; }, values, rest);
    }
    values.store_to(dx + row * width, width);
  }
  if (weight_runs == nullptr) return;
  float* run = weight_runs + static_cast<int64_t>(blockIdx.x) * width;
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      if (Values::column(p) < width) run[Values::column(p) + i] = sums.at[p][i];
}

// Calls launch(std::integral_constant<width>, std::integral_constant<packs>, threads) for rows of that width.
template <class T, class Launch>
void with_row_shape(int64_t width, bool packed, const Launch& launch) {
  const auto sized = [&](auto pack_width) {
    const int64_t packs = blocks_for(width, pack_width);
    const auto go = [&](auto per_thread) {
      const int64_t threads = (blocks_for(packs, per_thread) + 31) / 32 * 32;
      launch(pack_width, per_thread, static_cast<unsigned>(threads));
    };
    if (packs <= 512) return go(std::integral_constant<int, 1>{});
    if (packs <= 1024) return go(std::integral_constant<int, 2>{});
    if (packs <= 2048) return go(std::integral_constant<int, 4>{});
    SLUICE_CHECK(packs <= 16384, "rows of that width have no kernel");
    go(std::integral_constant<int, 16>{});
  };
  packed ? sized(std::integral_constant<int, kWidest<T>>{}) : sized(std::integral_constant<int, 1>{});
}

// Heads: one warp each, lane l has elements l, l + 32, ...
constexpr int kHeadElements = 8;  // per lane: heads of up to 256
constexpr int kHeadWarps = 8;

struct HeadRow {
  float at[kHeadElements];
};
template <class T>
__device__ HeadRow load_head(const T* from, int64_t size) {
  HeadRow row;
#pragma unroll
  for (int i = 0; i < kHeadElements; ++i) {
    const int64_t element = i * 32 + threadIdx.x % 32;
    row.at[i] = element < size ? to_float(from[element]) : 0.0f;
  }
  return row;
}
template <class T>
__device__ void store_head(T* to, const HeadRow& row, int64_t size) {
#pragma unroll
  for (int i = 0; i < kHeadElements; ++i) {
    const int64_t element = i * 32 + threadIdx.x % 32;
    if (element < size) to[element] = from_float<T>(row.at[i]);
  }
}

template <class T>
__global__ void norm_heads(const T* x, const T* w, T* y, Heads heads, int64_t rows, float epsilon) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kHeadWarps + threadIdx.x / 32;
  if (index >= rows * heads.count) return;
  const int64_t at = index / heads.count * heads.row_stride + heads.begin + index % heads.count * heads.size;
  HeadRow row = load_head(x + at, heads.size);
  const HeadRow weights = load_head(w, heads.size);
  float squares = 0;
#pragma unroll
  for (float value : row.at) squares += value * value;
  const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(heads.size) + epsilon);
#pragma unroll
  for (int i = 0; i < kHeadElements; ++i) row.at[i] = rounded<T>(row.at[i] * scale) * weights.at[i];
  store_head(y + at, row, heads.size);
}

// One block per run of tokens; each warp adds up its heads' part of dw, warp 0 adds the parts in order.
template <class T>
__global__ void norm_heads_backward(const T* x, const T* w, const T* dy, T* dx, float* weight_runs, Heads heads,
                                    int64_t rows, float epsilon) {
  __shared__ float parts[kHeadWarps][kHeadElements * 32];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRunTokens;
  const int64_t count = (min(rows, first + kRunTokens) - first) * heads.count;
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const HeadRow weights = load_head(w, heads.size);
  HeadRow sums{};
  for (int64_t index = warp; index < count; index += kHeadWarps) {
    const int64_t at =
        (first + index / heads.count) * heads.row_stride + heads.begin + index % heads.count * heads.size;
    HeadRow values = load_head(x + at, heads.size);
    const HeadRow gradient = load_head(dy + at, heads.size);
    float squares = 0, dot = 0;
#pragma unroll
    for (int i = 0; i < kHeadElements; ++i) {
      squares += values.at[i] * values.at[i];
      dot += gradient.at[i] * weights.at[i] * values.at[i];
    }
    const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(heads.size) + epsilon);
    const float mean = warp_sum(dot) * scale * scale / static_cast<float>(heads.size);
#pragma unroll
    for (int i = 0; i < kHeadElements; ++i) {
      sums.at[i] += gradient.at[i] * (values.at[i] * scale);
      values.at[i] = scale * (gradient.at[i] * weights.at[i] - values.at[i] * mean);
    }
    store_head(dx + at, values, heads.size);
  }
  if (weight_runs == nullptr) return;
#pragma unroll
  for (int i = 0; i < kHeadElements; ++i) parts[warp][i * 32 + lane] = sums.at[i];
  __syncthreads();
  for (int64_t element = threadIdx.x; element < heads.size; element += blockDim.x) {
    float sum = 0;
    for (const auto& part : parts) sum += part[element];
    weight_runs[static_cast<int64_t>(blockIdx.x) * heads.size + element] = sum;
  }
}

}  // namespace

template <class T>
void rms_norm(void* x, const void* addend, const void* w, void* y, int64_t rows, int64_t width, float epsilon) {
  if (rows == 0) return;
  with_row_shape<T>(width, packs<T>(width, {x, addend, w, y}), [&](auto pack_width, auto per_thread, unsigned threads) {
    norm_rows<T, pack_width, per_thread>
        <<<grid(rows), threads, 0, stream()>>>(static_cast<T*>(x), static_cast<const T*>(addend),
                                               static_cast<const T*>(w), static_cast<T*>(y), RowShape{width, epsilon});
  });
  check_launch("rms_norm");
}

template <class T>
void rms_norm_backward(const void* x, const void* w, const void* dy, const void* residual, void* dx, float* weight_runs,
                       int64_t rows, int64_t width, float epsilon) {
  if (rows == 0) return;
  const bool packed = packs<T>(width, {x, w, dy, residual, dx});
  with_row_shape<T>(width, packed, [&](auto pack_width, auto per_thread, unsigned threads) {
    norm_rows_backward<T, pack_width, per_thread><<<grid(runs_of(rows)), threads, 0, stream()>>>(
        static_cast<const T*>(x), static_cast<const T*>(w), static_cast<const T*>(dy), static_cast<const T*>(residual),
        static_cast<T*>(dx), weight_runs, rows, RowShape{width, epsilon});
  });
  check_launch("rms_norm_backward");
}

template <class T>
void head_norm(const void* x, const void* w, void* y, Heads heads, int64_t rows, float epsilon) {
  if (rows == 0) return;
  SLUICE_CHECK(heads.size <= kHeadElements * 32, "heads of that size have no kernel");
  norm_heads<T><<<grid(blocks_for(rows * heads.count, kHeadWarps)), kHeadWarps * 32, 0, stream()>>>(
      static_cast<const T*>(x), static_cast<const T*>(w), static_cast<T*>(y), heads, rows, epsilon);
  check_launch("head_norm");
}

template <class T>
void head_norm_backward(const void* x, const void* w, const void* dy, void* dx, float* weight_runs, Heads heads,
                        int64_t rows, float epsilon) {
  if (rows == 0) return;
  SLUICE_CHECK(heads.size <= kHeadElements * 32, "heads of that size have no kernel");
  norm_heads_backward<T><<<grid(runs_of(rows)), kHeadWarps * 32, 0, stream()>>>(
      static_cast<const T*>(x), static_cast<const T*>(w), static_cast<const T*>(dy), static_cast<T*>(dx), weight_runs,
      heads, rows, epsilon);
  check_launch("head_norm_backward");
}

#define SLUICE_NORM_KERNELS(T)                                                                                   \
  template void rms_norm<T>(void*, const void*, const void*, void*, int64_t, int64_t, float);                    \
  template void rms_norm_backward<T>(const void*, const void*, const void*, const void*, void*, float*, int64_t, \
                                     int64_t, float);                                                            \
  template void head_norm<T>(const void*, const void*, void*, Heads, int64_t, float);                            \
  template void head_norm_backward<T>(const void*, const void*, const void*, void*, float*, Heads, int64_t, float);
SLUICE_NORM_KERNELS(float)
SLUICE_NORM_KERNELS(__nv_bfloat16)
SLUICE_NORM_KERNELS(__half)
#undef SLUICE_NORM_KERNELS

}  // namespace sluice::models::cuda
