#include "models/cuda/element_kernels.h"
#include "models/cuda/packed.cuh"
#include "models/ops/philox.h"

namespace sluice::models::cuda {
namespace {

constexpr unsigned kThreads = 256;

// Calls launch with the widest pack that all of these allow.
template <class T, class Launch>
void with_packs(int64_t width, std::initializer_list<const void*> pointers, const Launch& launch) {
  if (packs<T>(width, pointers)) {
    launch(std::integral_constant<int, kWidest<T>>{});
  } else {
    launch(std::integral_constant<int, 1>{});
  }
}

// This thread's pack of `count`; -1 when there is none for it.
__device__ int64_t own_pack(int64_t count) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  return index < count ? index : -1;
}

__device__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

template <class T, int kWidth>
__global__ void swiglu_rows(const T* gate_up, T* y, int64_t packs_of_all, int64_t ffn) {
  const int64_t pack = own_pack(packs_of_all);
  if (pack < 0) return;
  const int64_t at = pack * kWidth, row = at / ffn, column = at % ffn;
  float gate[kWidth], up[kWidth];
  load<T, kWidth>(gate_up + row * 2 * ffn + column, gate);
  load<T, kWidth>(gate_up + row * 2 * ffn + ffn + column, up);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) gate[i] = rounded<T>(gate[i] * sigmoid(gate[i])) * up[i];
  store<T, kWidth>(y + at, gate);
}

template <class T, int kWidth>
__global__ void swiglu_rows_backward(const T* gate_up, const T* dy, T* gradient, T* y, int64_t packs_of_all,
                                     int64_t ffn) {
  const int64_t pack = own_pack(packs_of_all);
  if (pack < 0) return;
  const int64_t at = pack * kWidth, row = at / ffn, column = at % ffn;
  const int64_t gate_at = row * 2 * ffn + column, up_at = gate_at + ffn;
  float gate[kWidth], up[kWidth], d[kWidth], out[kWidth];
  load<T, kWidth>(gate_up + gate_at, gate);
  load<T, kWidth>(gate_up + up_at, up);
  load<T, kWidth>(dy + at, d);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float g = gate[i], u = up[i], s = sigmoid(g), silu = rounded<T>(g * s);
    out[i] = silu * u;
    gate[i] = d[i] * u * s * (1.0f + g * (1.0f - s));
    up[i] = d[i] * silu;
  }
  store<T, kWidth>(y + at, out);
  store<T, kWidth>(gradient + gate_at, gate);
  store<T, kWidth>(gradient + up_at, up);
}

// One thread per pack of the lower half of a head and its partner in the upper one.
template <class T, int kWidth>
__global__ void rotate(T* x, Heads heads, const int32_t* positions, RopeAngles angles, float direction,
                       int64_t packs_of_all) {
  const int64_t pack = own_pack(packs_of_all);
  if (pack < 0) return;
  const int64_t half = heads.size / 2, packs_of_head = half / kWidth;
  const int64_t i = pack % packs_of_head * kWidth, head = pack / packs_of_head % heads.count;
  const int64_t row = pack / (packs_of_head * heads.count);
  T* low_at = x + row * heads.row_stride + heads.begin + head * heads.size + i;
  float low[kWidth], high[kWidth];
  load<T, kWidth>(low_at, low);
  load<T, kWidth>(low_at + half, high);
  const int64_t angle = positions[row] * half + i;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const float a = low[k], b = high[k], cos = angles.cos[angle + k], sin = direction * angles.sin[angle + k];
    low[k] = a * cos - b * sin;
    high[k] = b * cos + a * sin;
  }
  store<T, kWidth>(low_at, low);
  store<T, kWidth>(low_at + half, high);
}

template <class T, int kWidth>
__global__ void add_to_rows(T* x, const T* bias, int64_t packs_of_all, int64_t width) {
  const int64_t pack = own_pack(packs_of_all);
  if (pack < 0) return;
  const int64_t at = pack * kWidth;
  float value[kWidth], more[kWidth];
  load<T, kWidth>(x + at, value);
  load<T, kWidth>(bias + at % width, more);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) value[i] += more[i];
  store<T, kWidth>(x + at, value);
}

template <class T, int kWidth>
__global__ void add_elements(const T* a, const T* b, T* y, int64_t packs_of_all) {
  const int64_t pack = own_pack(packs_of_all);
  if (pack < 0) return;
  float value[kWidth], more[kWidth];
  load<T, kWidth>(a + pack * kWidth, value);
  load<T, kWidth>(b + pack * kWidth, more);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) value[i] += more[i];
  store<T, kWidth>(y + pack * kWidth, value);
}

template <class T, int kWidth>
__global__ void scale_elements(T* x, float factor, int64_t packs_of_all) {
  const int64_t pack = own_pack(packs_of_all);
  if (pack < 0) return;
  float value[kWidth];
  load<T, kWidth>(x + pack * kWidth, value);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) value[i] *= factor;
  store<T, kWidth>(x + pack * kWidth, value);
}

template <class From, class To, int kWidth>
__global__ void store_elements(const From* from, To* to, Store how, int64_t packs_of_all) {
  const int64_t pack = own_pack(packs_of_all);
  if (pack < 0) return;
  float value[kWidth];
  load<From, kWidth>(from + pack * kWidth, value);
  if (how == Store::accumulate) {
    float before[kWidth];
    load<To, kWidth>(to + pack * kWidth, before);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) value[i] = before[i] + value[i];
  }
  store<To, kWidth>(to + pack * kWidth, value);
}

// The same draws for the same key and element as on the host (models/ops/kernels_isa.cpp). Counter c gives four
// elements, kLanes apart, of the chunk c / kLanes.
constexpr int64_t kLanes = 64;

struct Drop {
  uint32_t threshold;
  float scale;
};

template <class T>
__global__ void drop_elements(const T* x, T* y, int64_t elements, Drop drop, uint64_t key, uint32_t step,
                              uint32_t micro_batch) {
  const int64_t counter = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t first = counter / kLanes * 4 * kLanes + counter % kLanes;
  if (first >= elements) return;
  const PhiloxDraws draws = philox(key, static_cast<uint64_t>(counter), step, micro_batch);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = first + i * kLanes;
    if (at < elements) y[at] = from_float<T>(draws.at[i] < drop.threshold ? 0.0f : to_float(x[at]) * drop.scale);
  }
}

}  // namespace

template <class T>
void rope(void* x, Heads heads, const int32_t* positions, RopeAngles angles, float direction, int64_t rows) {
  if (rows == 0) return;
  T* at = static_cast<T*>(x);
  // A pack must not cross from one half of a head into the other.
  const bool packed = packs<T>(heads.size / 2, {at + heads.begin}) && heads.row_stride % kWidest<T> == 0;
  const auto launch = [&](auto width) {
    const int64_t count = rows * heads.count * (heads.size / 2) / width;
    rotate<T, width>
        <<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(at, heads, positions, angles, direction, count);
  };
  packed ? launch(std::integral_constant<int, kWidest<T>>{}) : launch(std::integral_constant<int, 1>{});
  check_launch("rope");
}

template <class T>
void swiglu(const void* gate_up, void* y, int64_t rows, int64_t ffn) {
  if (rows == 0) return;
  with_packs<T>(ffn, {gate_up, y}, [&](auto width) {
    const int64_t count = rows * ffn / width;
    swiglu_rows<T, width><<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(static_cast<const T*>(gate_up),
                                                                                        static_cast<T*>(y), count, ffn);
  });
  check_launch("swiglu");
}

template <class T>
void swiglu_backward(const void* gate_up, const void* dy, void* gate_up_gradient, void* y, int64_t rows, int64_t ffn) {
  if (rows == 0) return;
  with_packs<T>(ffn, {gate_up, dy, gate_up_gradient, y}, [&](auto width) {
    const int64_t count = rows * ffn / width;
    swiglu_rows_backward<T, width><<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(
        static_cast<const T*>(gate_up), static_cast<const T*>(dy), static_cast<T*>(gate_up_gradient),
        static_cast<T*>(y), count, ffn);
  });
  check_launch("swiglu_backward");
}

template <class T>
void add_bias(void* x, const void* bias, int64_t rows, int64_t width) {
  if (rows == 0) return;
  with_packs<T>(width, {x, bias}, [&](auto pack) {
    const int64_t count = rows * width / pack;
    add_to_rows<T, pack><<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(
        static_cast<T*>(x), static_cast<const T*>(bias), count, width);
  });
  check_launch("add_bias");
}

template <class T>
void add(const void* a, const void* b, void* y, int64_t elements) {
  if (elements == 0) return;
  with_packs<T>(elements, {a, b, y}, [&](auto width) {
    const int64_t count = elements / width;
    add_elements<T, width><<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(
        static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(y), count);
  });
  check_launch("add");
}

template <class T>
void scale(void* x, float factor, int64_t elements) {
  if (elements == 0) return;
  with_packs<T>(elements, {x}, [&](auto width) {
    const int64_t count = elements / width;
    scale_elements<T, width>
        <<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(static_cast<T*>(x), factor, count);
  });
  check_launch("scale");
}

template <class T>
void dropout(const void* x, void* y, int64_t elements, float p, DropoutKey key) {
  if (elements == 0) return;
  const int64_t counters = blocks_for(elements, 4 * kLanes) * kLanes;
  const Drop drop{static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0), 1.0f / (1.0f - p)};
  drop_elements<T><<<grid(blocks_for(counters, kThreads)), kThreads, 0, stream()>>>(
      static_cast<const T*>(x), static_cast<T*>(y), elements, drop, key.seed ^ (key.site * 0x9E3779B97F4A7C15ull),
      static_cast<uint32_t>(key.step), static_cast<uint32_t>(key.micro_batch));
  check_launch("dropout");
}

template <class T>
void store_gradient(const void* from, void* to, Dtype to_dtype, Store how, int64_t elements) {
  if (elements == 0) return;
  with_elements(to, to_dtype, [&]<class To>(To* target) {
    // As wide as the wider of the two types allows.
    constexpr int kWidth = kWidest<T> < kWidest<To> ? kWidest<T> : kWidest<To>;
    const auto launch = [&](auto width) {
      const int64_t count = elements / width;
      store_elements<T, To, width><<<grid(blocks_for(count, kThreads)), kThreads, 0, stream()>>>(
          static_cast<const T*>(from), target, how, count);
    };
    packs<To>(elements, {from, to}) && packs<T>(elements, {from}) ? launch(std::integral_constant<int, kWidth>{})
                                                                  : launch(std::integral_constant<int, 1>{});
  });
  check_launch("store_gradient");
}

#define SLUICE_ELEMENT_KERNELS(T)                                                             \
  template void rope<T>(void*, Heads, const int32_t*, RopeAngles, float, int64_t);            \
  template void swiglu<T>(const void*, void*, int64_t, int64_t);                              \
  template void swiglu_backward<T>(const void*, const void*, void*, void*, int64_t, int64_t); \
  template void add_bias<T>(void*, const void*, int64_t, int64_t);                            \
  template void add<T>(const void*, const void*, void*, int64_t);                             \
  template void scale<T>(void*, float, int64_t);                                              \
  template void dropout<T>(const void*, void*, int64_t, float, DropoutKey);                   \
  template void store_gradient<T>(const void*, void*, Dtype, Store, int64_t);
SLUICE_ELEMENT_KERNELS(float)
SLUICE_ELEMENT_KERNELS(__nv_bfloat16)
SLUICE_ELEMENT_KERNELS(__half)
#undef SLUICE_ELEMENT_KERNELS

}  // namespace sluice::models::cuda
