// Compiled once per instruction set: SLUICE_KERNELS names this copy's table (see CMakeLists.txt and kernels.cpp).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "models/ops/element.h"
#include "models/ops/kernels.h"
#include "models/ops/philox.h"
#include "models/ops/vector_math.h"

namespace sluice::models {
namespace {

// Work below this many elements stays on one thread: waking the others costs more.
constexpr int64_t kParallelElements = 1 << 14;

template <class Body>
void for_rows(int64_t rows, int64_t width, const Body& body) {
#pragma omp parallel for schedule(static) if (rows * width >= kParallelElements)
  for (int64_t row = 0; row < rows; ++row) body(row);
}

template <class T>
float sum_of_squares(const T* x, int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) {
    const float value = load(x + i);
    sum += value * value;
  }
  return sum;
}

template <class T>
float reciprocal_rms(const T* x, int64_t width, float epsilon) {
  return 1.0f / std::sqrt(sum_of_squares(x, width) / static_cast<float>(width) + epsilon);
}

template <class T>
void norm_row(const T* x, const T* w, T* y, int64_t width, float epsilon) {
  const float scale = reciprocal_rms(x, width, epsilon);
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) store(y + i, rounded<T>(load(x + i) * scale) * load(w + i));
}

// n = x * s, s = rsqrt(mean(x^2) + e); dx = s * (dn - n * mean(dn * n)) with dn = dy * w; dw += dy * n.
template <class T>
void norm_row_backward(const T* x, const T* w, const T* dy, const T* residual, T* dx, float* dw, int64_t width,
                       float epsilon) {
  const float scale = reciprocal_rms(x, width, epsilon);
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < width; ++i) dot += load(dy + i) * load(w + i) * load(x + i);
  const float mean = dot * scale * scale / static_cast<float>(width);
  if (dw != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) dw[i] += load(dy + i) * (load(x + i) * scale);
  }
  if (residual != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i)
      store(dx + i, load(residual + i) + scale * (load(dy + i) * load(w + i) - load(x + i) * mean));
  } else {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(dx + i, scale * (load(dy + i) * load(w + i) - load(x + i) * mean));
  }
}

template <class T>
void rms_norm(void* x_v, const void* addend_v, const void* w_v, void* y_v, int64_t rows, int64_t width, float epsilon) {
  T* x = static_cast<T*>(x_v);
  const T* addend = static_cast<const T*>(addend_v);
  const T* w = static_cast<const T*>(w_v);
  T* y = static_cast<T*>(y_v);
  for_rows(rows, width, [=](int64_t row) {
    T* x_row = x + row * width;
    if (addend != nullptr) {
      const T* add_row = addend + row * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) store(x_row + i, load(x_row + i) + load(add_row + i));
    }
    norm_row(x_row, w, y + row * width, width, epsilon);
  });
}

template <class T>
void rms_norm_backward(const void* x_v, const void* w_v, const void* dy_v, const void* residual_v, void* dx_v,
                       float* weight_runs, int64_t rows, int64_t width, float epsilon) {
  const T* x = static_cast<const T*>(x_v);
  const T* w = static_cast<const T*>(w_v);
  const T* dy = static_cast<const T*>(dy_v);
  const T* residual = static_cast<const T*>(residual_v);
  T* dx = static_cast<T*>(dx_v);
  for_rows(runs_of(rows), width * kRunTokens, [=](int64_t run) {
    float* dw = weight_runs == nullptr ? nullptr : weight_runs + run * width;
    if (dw != nullptr) std::fill(dw, dw + width, 0.0f);
    for (int64_t row = run * kRunTokens; row < std::min(rows, (run + 1) * kRunTokens); ++row)
      norm_row_backward(x + row * width, w, dy + row * width, residual == nullptr ? nullptr : residual + row * width,
                        dx + row * width, dw, width, epsilon);
  });
}

template <class T>
void head_norm(const void* x_v, const void* w_v, void* y_v, Heads heads, int64_t rows, float epsilon) {
  const T* x = static_cast<const T*>(x_v);
  const T* w = static_cast<const T*>(w_v);
  T* y = static_cast<T*>(y_v);
  for_rows(rows, heads.count * heads.size, [=](int64_t row) {
    for (int64_t head = 0; head < heads.count; ++head) {
      const int64_t at = row * heads.row_stride + heads.begin + head * heads.size;
      norm_row(x + at, w, y + at, heads.size, epsilon);
    }
  });
}

template <class T>
void head_norm_backward(const void* x_v, const void* w_v, const void* dy_v, void* dx_v, float* weight_runs, Heads heads,
                        int64_t rows, float epsilon) {
  const T* x = static_cast<const T*>(x_v);
  const T* w = static_cast<const T*>(w_v);
  const T* dy = static_cast<const T*>(dy_v);
  T* dx = static_cast<T*>(dx_v);
  for_rows(runs_of(rows), heads.count * heads.size * kRunTokens, [=](int64_t run) {
    float* dw = weight_runs == nullptr ? nullptr : weight_runs + run * heads.size;
    if (dw != nullptr) std::fill(dw, dw + heads.size, 0.0f);
    for (int64_t row = run * kRunTokens; row < std::min(rows, (run + 1) * kRunTokens); ++row)
      for (int64_t head = 0; head < heads.count; ++head) {
        const int64_t at = row * heads.row_stride + heads.begin + head * heads.size;
        norm_row_backward<T>(x + at, w, dy + at, nullptr, dx + at, dw, heads.size, epsilon);
      }
  });
}

template <class T>
void rope(void* x_v, Heads heads, const int32_t* positions, RopeAngles angles, float direction, int64_t rows) {
  T* x = static_cast<T*>(x_v);
  const int64_t half = heads.size / 2;
  for_rows(rows, heads.count * heads.size, [=](int64_t row) {
    const float* cos = angles.cos + positions[row] * half;
    const float* sin = angles.sin + positions[row] * half;
    for (int64_t head = 0; head < heads.count; ++head) {
      T* low = x + row * heads.row_stride + heads.begin + head * heads.size;
      T* high = low + half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float a = load(low + i), b = load(high + i), s = direction * sin[i];
        store(low + i, a * cos[i] - b * s);
        store(high + i, b * cos[i] + a * s);
      }
    }
  });
}

template <class T>
void swiglu(const void* gate_up_v, void* y_v, int64_t rows, int64_t ffn) {
  const T* gate_up = static_cast<const T*>(gate_up_v);
  T* y = static_cast<T*>(y_v);
  for_rows(rows, ffn, [=](int64_t row) {
    const T* gate = gate_up + row * 2 * ffn;
    const T* up = gate + ffn;
    T* out = y + row * ffn;
#pragma omp simd
    for (int64_t i = 0; i < ffn; ++i) {
      const float g = load(gate + i);
      store(out + i, rounded<T>(g * sigmoid(g)) * load(up + i));
    }
  });
}

template <class T>
void swiglu_backward(const void* gate_up_v, const void* dy_v, void* gradient_v, void* y_v, int64_t rows, int64_t ffn) {
  const T* gate_up = static_cast<const T*>(gate_up_v);
  const T* dy = static_cast<const T*>(dy_v);
  T* gradient = static_cast<T*>(gradient_v);
  T* y = static_cast<T*>(y_v);
  for_rows(rows, ffn, [=](int64_t row) {
    const T* gate = gate_up + row * 2 * ffn;
    const T* up = gate + ffn;
    T* gate_gradient = gradient + row * 2 * ffn;
    T* up_gradient = gate_gradient + ffn;
    const T* dy_row = dy + row * ffn;
    T* out = y + row * ffn;
#pragma omp simd
    for (int64_t i = 0; i < ffn; ++i) {
      const float g = load(gate + i), u = load(up + i), d = load(dy_row + i);
      const float s = sigmoid(g);
      const float silu = rounded<T>(g * s);
      store(out + i, silu * u);
      store(gate_gradient + i, d * u * s * (1.0f + g * (1.0f - s)));
      store(up_gradient + i, d * silu);
    }
  });
}

template <class T>
void add_bias(void* x_v, const void* bias_v, int64_t rows, int64_t width) {
  T* x = static_cast<T*>(x_v);
  const T* bias = static_cast<const T*>(bias_v);
  for_rows(rows, width, [=](int64_t row) {
    T* x_row = x + row * width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(x_row + i, load(x_row + i) + load(bias + i));
  });
}

template <class T>
void column_runs(const void* x_v, float* runs, int64_t rows, int64_t width) {
  const T* x = static_cast<const T*>(x_v);
  for_rows(runs_of(rows), width * kRunTokens, [=](int64_t run) {
    float* sum = runs + run * width;
    std::fill(sum, sum + width, 0.0f);
    for (int64_t row = run * kRunTokens; row < std::min(rows, (run + 1) * kRunTokens); ++row) {
      const T* x_row = x + row * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) sum[i] += load(x_row + i);
    }
  });
}

template <class T>
void add(const void* a_v, const void* b_v, void* y_v, int64_t elements) {
  const T* a = static_cast<const T*>(a_v);
  const T* b = static_cast<const T*>(b_v);
  T* y = static_cast<T*>(y_v);
  constexpr int64_t kBlock = 4096;
  for_rows((elements + kBlock - 1) / kBlock, kBlock, [=](int64_t block) {
    const int64_t end = std::min(elements, (block + 1) * kBlock);
#pragma omp simd
    for (int64_t i = block * kBlock; i < end; ++i) store(y + i, load(a + i) + load(b + i));
  });
}

template <class T>
void scale(void* x_v, float factor, int64_t elements) {
  T* x = static_cast<T*>(x_v);
  constexpr int64_t kBlock = 4096;
  for_rows((elements + kBlock - 1) / kBlock, kBlock, [=](int64_t block) {
    const int64_t end = std::min(elements, (block + 1) * kBlock);
#pragma omp simd
    for (int64_t i = block * kBlock; i < end; ++i) store(x + i, load(x + i) * factor);
  });
}

// One counter per lane.
constexpr int64_t kPhiloxLanes = 64;

void draw(uint64_t key, uint64_t first_counter, uint32_t high_a, uint32_t high_b, uint32_t random[4][kPhiloxLanes]) {
#pragma omp simd
  for (int32_t lane = 0; lane < kPhiloxLanes; ++lane) {
    const PhiloxDraws draws = philox(key, first_counter + static_cast<uint64_t>(lane), high_a, high_b);
    random[0][lane] = draws.at[0], random[1][lane] = draws.at[1];
    random[2][lane] = draws.at[2], random[3][lane] = draws.at[3];
  }
}

template <class T>
void dropout(const void* x_v, void* y_v, int64_t elements, float p, DropoutKey key) {
  const T* x = static_cast<const T*>(x_v);
  T* y = static_cast<T*>(y_v);
  const uint64_t mixed = key.seed ^ (key.site * 0x9E3779B97F4A7C15ull);
  const auto threshold = static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
  const float scale = 1.0f / (1.0f - p);
  constexpr int64_t kChunk = 4 * kPhiloxLanes;
  for_rows((elements + kChunk - 1) / kChunk, kChunk * 8, [=](int64_t chunk) {
    uint32_t random[4][kPhiloxLanes];
    draw(mixed, static_cast<uint64_t>(chunk * kPhiloxLanes), static_cast<uint32_t>(key.step),
         static_cast<uint32_t>(key.micro_batch), random);
    const uint32_t* draws = &random[0][0];
    const int64_t begin = chunk * kChunk, count = std::min(kChunk, elements - begin);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const float kept = load(x + begin + i) * scale;
      store(y + begin + i, draws[i] < threshold ? 0.0f : kept);
    }
  });
}

template <class T>
void cross_entropy(void* logits_v, const int32_t* labels, double* row_losses, float scale, bool gradient, int64_t rows,
                   int64_t vocabulary) {
  T* logits = static_cast<T*>(logits_v);
  for_rows(rows, vocabulary, [=](int64_t row) {
    T* x = logits + row * vocabulary;
    float most = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < vocabulary; ++i) {
      const float value = load(x + i);
      most = value > most ? value : most;
    }
    // Runs in double: a sum over 150,000 terms in one fp32 would lose the last digits.
    double total = 0;
    constexpr int64_t kRun = 4096;
    for (int64_t begin = 0; begin < vocabulary; begin += kRun) {
      float sum = 0;
      const int64_t end = std::min(vocabulary, begin + kRun);
#pragma omp simd reduction(+ : sum)
      for (int64_t i = begin; i < end; ++i) sum += fast_exp(load(x + i) - most);
      total += static_cast<double>(sum);
    }
    const int32_t label = labels[row];
    row_losses[row] = std::log(total) + static_cast<double>(most) - static_cast<double>(load(x + label));
    if (!gradient) return;
    const auto inverse = static_cast<float>(1.0 / total) * scale;
    const float at_label = fast_exp(load(x + label) - most) * inverse - scale;
#pragma omp simd
    for (int64_t i = 0; i < vocabulary; ++i) store(x + i, fast_exp(load(x + i) - most) * inverse);
    store(x + label, at_label);
  });
}

template <class T>
void gather_rows(const void* table, const int32_t* rows, void* y, int64_t count, int64_t width) {
  const auto bytes = static_cast<size_t>(width) * sizeof(T);
  for_rows(count, width, [=](int64_t i) {
    std::memcpy(static_cast<char*>(y) + static_cast<size_t>(i) * bytes,
                static_cast<const char*>(table) + static_cast<size_t>(rows[i]) * bytes, bytes);
  });
}

template <class T>
void scatter_rows(const void* x, const int32_t* rows, void* y, int64_t count, int64_t width) {
  const auto bytes = static_cast<size_t>(width) * sizeof(T);
  for_rows(count, width, [=](int64_t i) {
    std::memcpy(static_cast<char*>(y) + static_cast<size_t>(rows[i]) * bytes,
                static_cast<const char*>(x) + static_cast<size_t>(i) * bytes, bytes);
  });
}

template <class From, class To>
void store_elements(const From* from, To* to, Store how, int64_t elements) {
  constexpr int64_t kBlock = 1 << 14;
  for_rows((elements + kBlock - 1) / kBlock, kBlock, [=](int64_t block) {
    const int64_t begin = block * kBlock, end = std::min(elements, begin + kBlock);
    if (how == Store::overwrite) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) store(to + i, load(from + i));
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) store(to + i, load(to + i) + load(from + i));
    }
  });
}

template <class T>
void store_gradient(const void* from, void* to, Dtype to_dtype, Store how, int64_t elements) {
  with_elements(to, to_dtype,
                [&](auto* target) { store_elements(static_cast<const T*>(from), target, how, elements); });
}

template <class T>
void row_norms(const void* w_v, const void* more_v, float scale, float* norms, int64_t rows, int64_t width) {
  const T* w = static_cast<const T*>(w_v);
  const T* more = static_cast<const T*>(more_v);
  for_rows(rows, width, [=](int64_t row) {
    const T* w_row = w + row * width;
    if (more == nullptr) {
      norms[row] = std::sqrt(sum_of_squares(w_row, width));
      return;
    }
    const T* more_row = more + row * width;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) {
      const float value = load(w_row + i) + scale * load(more_row + i);
      sum += value * value;
    }
    norms[row] = std::sqrt(sum);
  });
}

template <class T>
void magnitude_factors(const void* magnitudes_v, const float* norms, float* factors, int64_t count) {
  const T* magnitudes = static_cast<const T*>(magnitudes_v);
  for (int64_t i = 0; i < count; ++i) factors[i] = norms[i] > 0 ? load(magnitudes + i) / norms[i] : 0.0f;
}

template <class T>
void scale_columns(const void* x_v, int64_t x_stride, const float* factors, float shift, void* y_v, int64_t y_stride,
                   Store how, int64_t rows, int64_t width) {
  const T* x = static_cast<const T*>(x_v);
  T* y = static_cast<T*>(y_v);
  for_rows(rows, width, [=](int64_t row) {
    const T* x_row = x + row * x_stride;
    T* y_row = y + row * y_stride;
    if (how == Store::overwrite) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) store(y_row + i, load(x_row + i) * (factors[i] + shift));
    } else {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) store(y_row + i, load(y_row + i) + load(x_row + i) * (factors[i] + shift));
    }
  });
}

template <class T>
void product_runs(const void* a_v, int64_t a_stride, const void* b_v, const float* divisors, float* runs, int64_t rows,
                  int64_t width) {
  const T* a = static_cast<const T*>(a_v);
  const T* b = static_cast<const T*>(b_v);
  for_rows(runs_of(rows), width * kRunTokens, [=](int64_t run) {
    float* sum = runs + run * width;
    std::fill(sum, sum + width, 0.0f);
    for (int64_t row = run * kRunTokens; row < std::min(rows, (run + 1) * kRunTokens); ++row) {
      const T* a_row = a + row * a_stride;
      const T* b_row = b + row * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) sum[i] += load(a_row + i) * load(b_row + i);
    }
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) sum[i] = divisors[i] > 0 ? sum[i] / divisors[i] : 0.0f;
  });
}

template <class T>
constexpr Kernels table_of() {
  return {rms_norm<T>,       rms_norm_backward<T>, head_norm<T>,         head_norm_backward<T>, rope<T>,
          swiglu<T>,         swiglu_backward<T>,   add_bias<T>,          column_runs<T>,        add<T>,
          scale<T>,          dropout<T>,           cross_entropy<T>,     gather_rows<T>,        scatter_rows<T>,
          store_gradient<T>, row_norms<T>,         magnitude_factors<T>, scale_columns<T>,      product_runs<T>};
}

}  // namespace

extern const Kernels SLUICE_KERNELS[kElementTypes];
const Kernels SLUICE_KERNELS[kElementTypes] = {table_of<float>(), table_of<Bf16>(), table_of<F16>()};

}  // namespace sluice::models
