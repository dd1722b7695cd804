#include "models/ops/kernels.h"

#include <algorithm>
#include <numeric>

#include "models/ops/element.h"

namespace sluice::models {

extern const Kernels kernels_v4[2];
extern const Kernels kernels_v3[2];
extern const Kernels kernels_v1[2];

namespace {

const Kernels* best_table() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
    return kernels_v4;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("f16c"))
    return kernels_v3;
  return kernels_v1;
}

constexpr int64_t kBlock = 1 << 14;

template <class From, class To>
void store_elements(const From* from, To* to, Store how, int64_t elements) {
#pragma omp parallel for schedule(static) if (elements > kBlock)
  for (int64_t begin = 0; begin < elements; begin += kBlock) {
    const int64_t end = std::min(elements, begin + kBlock);
    if (how == Store::overwrite) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) store(to + i, load(from + i));
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) store(to + i, load(to + i) + load(from + i));
    }
  }
}

// Calls body with the pointer typed.
template <class Body>
void with_type(const void* at, Dtype dtype, const Body& body) {
  dtype == Dtype::f32 ? body(static_cast<const float*>(at)) : body(static_cast<const Bf16*>(at));
}
template <class Body>
void with_type(void* at, Dtype dtype, const Body& body) {
  dtype == Dtype::f32 ? body(static_cast<float*>(at)) : body(static_cast<Bf16*>(at));
}

}  // namespace

const Kernels& kernels(Dtype dtype) {
  static const Kernels* const table = best_table();
  return table[dtype == Dtype::f32 ? 0 : 1];
}

void store_gradient(const void* from, Dtype from_dtype, void* to, Dtype to_dtype, Store how, int64_t elements) {
  with_type(from, from_dtype, [&](const auto* source) {
    with_type(to, to_dtype, [&](auto* target) { store_elements(source, target, how, elements); });
  });
}

void store_runs(const float* runs, int64_t count, int64_t width, void* to, Dtype to_dtype, Store how) {
  with_type(to, to_dtype, [&](auto* target) {
    for (int64_t i = 0; i < width; ++i) {
      float sum = how == Store::accumulate ? load(target + i) : 0.0f;
      for (int64_t run = 0; run < count; ++run) sum += runs[run * width + i];
      store(target + i, sum);
    }
  });
}

void scatter_add_rows(const void* dy, Dtype dtype, const int32_t* token_ids, int64_t tokens, int64_t width,
                      int32_t skip, void* table_gradient, Dtype gradient_dtype, int32_t* order) {
  std::iota(order, order + tokens, 0);
  std::stable_sort(order, order + tokens, [&](int32_t a, int32_t b) { return token_ids[a] < token_ids[b]; });
  with_type(dy, dtype, [&](const auto* source) {
    with_type(table_gradient, gradient_dtype, [&](auto* target) {
    // One thread owns all occurrences of a token: its sum is in token order.
#pragma omp parallel for schedule(static) if (tokens * width > kBlock)
      for (int64_t i = 0; i < tokens; ++i) {
        const int32_t token = token_ids[order[i]];
        if (token == skip || (i > 0 && token_ids[order[i - 1]] == token)) continue;
        auto* row = target + token * width;
        for (int64_t column = 0; column < width; ++column) {
          float sum = load(row + column);
          for (int64_t j = i; j < tokens && token_ids[order[j]] == token; ++j)
            sum += load(source + order[j] * width + column);
          store(row + column, sum);
        }
      }
    });
  });
}

}  // namespace sluice::models
