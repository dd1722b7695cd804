#include "models/ops/kernels.h"

#include <algorithm>
#include <numeric>

#include "models/ops/element.h"
#include "models/ops/isa.h"

namespace sluice::models {

extern const Kernels kernels_v4[kElementTypes];
extern const Kernels kernels_v3[kElementTypes];
extern const Kernels kernels_v1[kElementTypes];

namespace {

const Kernels* best_table() {
  switch (best_isa()) {
    case Isa::v4:
      return kernels_v4;
    case Isa::v3:
      return kernels_v3;
    case Isa::v1:
      break;
  }
  return kernels_v1;
}

// Work below this many elements stays on one thread.
constexpr int64_t kParallelElements = 1 << 14;

}  // namespace

const Kernels& kernels(Dtype dtype) {
  static const Kernels* const table = best_table();
  return table[element_type(dtype)];
}

void store_runs(const float* runs, int64_t count, int64_t width, void* to, Dtype to_dtype, Store how) {
  with_elements(to, to_dtype, [&](auto* target) {
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
  with_elements(dy, dtype, [&](const auto* source) {
    with_elements(table_gradient, gradient_dtype, [&](auto* target) {
    // One thread owns all occurrences of a token: its sum is in token order.
#pragma omp parallel for schedule(static) if (tokens * width > kParallelElements)
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
