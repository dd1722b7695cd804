// Compiled once per instruction set: SLUICE_ATTENTION_TILES names this copy's table (see CMakeLists.txt).
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "models/ops/attention_tiles.h"
#include "models/ops/element.h"
#include "models/ops/vector_math.h"

namespace sluice::models {
namespace {

// A word is one fp32 element or two neighbouring bf16 elements.
template <class T>
constexpr int64_t kElementsPerWord = static_cast<int64_t>(sizeof(uint32_t) / sizeof(T));

inline uint32_t word_at(const void* row, int64_t index) {
  uint32_t word;
  std::memcpy(&word, static_cast<const char*>(row) + index * 4, 4);
  return word;
}

typedef uint32_t Words8 __attribute__((vector_size(32)));

inline Words8 load8(const void* at) {
  Words8 words;
  std::memcpy(&words, at, sizeof words);
  return words;
}

// to[c][r] = from[r][c] for 8 x 8 words; strides in bytes.
__attribute__((always_inline)) inline void transpose8(const char* from, int64_t from_stride, char* to,
                                                      int64_t to_stride) {
  Words8 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = load8(from + i * from_stride);
  for (int i = 0; i < 8; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    a[i + 1] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    a[i + 2] = __builtin_shufflevector(b[i + 1], b[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    a[i + 3] = __builtin_shufflevector(b[i + 1], b[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 4; ++i) {
    const Words8 low = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    const Words8 high = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    std::memcpy(to + i * to_stride, &low, sizeof low);
    std::memcpy(to + (i + 4) * to_stride, &high, sizeof high);
  }
}

// to [columns, rows] = from^T, in words; strides in words.
void transpose_words(const void* from_v, int64_t from_stride, int64_t rows, int64_t columns, void* to_v,
                     int64_t to_stride) {
  const auto* from = static_cast<const char*>(from_v);
  auto* to = static_cast<char*>(to_v);
  for (int64_t r = 0; r < rows; r += 8) {
    for (int64_t c = 0; c < columns; c += 8) {
      const char* source = from + (r * from_stride + c) * 4;
      char* target = to + (c * to_stride + r) * 4;
      if (r + 8 <= rows && c + 8 <= columns) {
        transpose8(source, from_stride * 4, target, to_stride * 4);
        continue;
      }
      for (int64_t i = 0; i < std::min<int64_t>(8, rows - r); ++i)
        for (int64_t j = 0; j < std::min<int64_t>(8, columns - c); ++j)
          std::memcpy(target + (j * to_stride + i) * 4, source + (i * from_stride + j) * 4, 4);
    }
  }
}

template <class T>
void plain_rows(const void* x_v, int64_t stride, int64_t rows, int64_t width, void* y) {
  const T* x = static_cast<const T*>(x_v);
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(static_cast<T*>(y) + row * width, x + row * stride, static_cast<size_t>(width) * sizeof(T));
}
template <>
void plain_rows<F16>(const void* x_v, int64_t stride, int64_t rows, int64_t width, void* y_v) {
  const F16* x = static_cast<const F16*>(x_v);
  float* y = static_cast<float*>(y_v);
  for (int64_t row = 0; row < rows; ++row) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) y[row * width + i] = load(x + row * stride + i);
  }
}

// y [width, y_stride] = x^T in fp32, for `rows` rows.
void transpose_widened(const F16* x, int64_t stride, int64_t rows, int64_t width, float* y, int64_t y_stride) {
  constexpr int64_t kRows = 64, kWidth = 32;
  alignas(64) float part[kRows * kWidth];
  for (int64_t row = 0; row < rows; row += kRows)
    for (int64_t column = 0; column < width; column += kWidth) {
      const int64_t count = std::min(kRows, rows - row), columns = std::min(kWidth, width - column);
      plain_rows<F16>(x + row * stride + column, stride, count, columns, part);
      transpose_words(part, columns, count, columns, y + column * y_stride + row, y_stride);
    }
}

template <class T>
void pack_columns(const void* x, int64_t stride, int64_t rows, int64_t width, void* packed) {
  if constexpr (std::is_same_v<T, F16>) {
    if (rows < kQueryTile) std::memset(packed, 0, static_cast<size_t>(width * kQueryTile) * 4);
    return transpose_widened(static_cast<const F16*>(x), stride, rows, width, static_cast<float*>(packed), kQueryTile);
  }
  const int64_t words = width / kElementsPerWord<T>;
  if (rows < kQueryTile) std::memset(packed, 0, static_cast<size_t>(words * kQueryTile) * 4);
  transpose_words(x, stride / kElementsPerWord<T>, rows, words, packed, kQueryTile);
}

template <class T>
void pack_rows(const void* x_v, int64_t stride, int64_t rows, int64_t width, void* packed) {
  if constexpr (!std::is_same_v<T, Bf16>) {
    float* to = static_cast<float*>(packed);
    plain_rows<T>(x_v, stride, rows, width, to);
    std::fill(to + rows * width, to + kQueryTile * width, 0.0f);
  } else {
    const T* x = static_cast<const T*>(x_v);
    auto* to = static_cast<uint32_t*>(packed);
    for (int64_t row = 0; row < kQueryTile; row += 2, to += width) {
      if (row >= rows) {
        std::fill_n(to, width, 0u);
        continue;
      }
      const T* even = x + row * stride;
      const T* odd = even + stride;
      if (row + 1 < rows) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i)
          to[i] = static_cast<uint32_t>(even[i].bits) | static_cast<uint32_t>(odd[i].bits) << 16;
      } else {
        for (int64_t i = 0; i < width; ++i) to[i] = even[i].bits;
      }
    }
  }
}

template <class T>
void transpose(const void* x_v, int64_t stride, int64_t rows, int64_t width, void* y_v, int64_t y_stride) {
  if constexpr (std::is_same_v<T, float>) {
    transpose_words(x_v, stride, rows, width, y_v, y_stride);
  } else if constexpr (std::is_same_v<T, F16>) {
    transpose_widened(static_cast<const F16*>(x_v), stride, rows, width, static_cast<float*>(y_v), y_stride);
  } else {
    // Words are pairs of columns: transposed as words, then taken apart, kRows at a time.
    constexpr int64_t kRows = 64, kWords = 32;
    alignas(64) uint32_t pairs[kWords * kRows];
    const T* x = static_cast<const T*>(x_v);
    auto* y = static_cast<uint16_t*>(y_v);
    for (int64_t row = 0; row < rows; row += kRows)
      for (int64_t word = 0; word < width / 2; word += kWords) {
        const int64_t count = std::min(kRows, rows - row), words = std::min(kWords, width / 2 - word);
        transpose_words(x + row * stride + 2 * word, stride / 2, count, words, pairs, kRows);
        for (int64_t w = 0; w < words; ++w) {
          uint16_t* low = y + 2 * (word + w) * y_stride + row;
          uint16_t* high = low + y_stride;
          const uint32_t* pair = pairs + w * kRows;
#pragma omp simd
          for (int64_t i = 0; i < count; ++i) {
            low[i] = static_cast<uint16_t>(pair[i]);
            high[i] = static_cast<uint16_t>(pair[i] >> 16);
          }
        }
      }
  }
}

// Columns [begin, end) of a key's row are seen.
struct Seen {
  int32_t begin, end;
  bool all() const { return begin == 0 && end == kQueryTile; }
  bool none() const { return begin >= end; }
};

inline Seen seen_of(const TilePlace& place, int64_t row) {
  const int64_t key = place.first_key + row;
  const int64_t begin = std::clamp<int64_t>(key - place.first_query, 0, kQueryTile);
  int64_t end = place.queries;
  if (place.window > 0) end = std::min(end, key + place.window - place.first_query);
  return {static_cast<int32_t>(begin), static_cast<int32_t>(std::max<int64_t>(end, 0))};
}

// most = the larger of itself and the scaled scores seen.
void raise_most(const float* scores, const TilePlace& place, float scale, float* __restrict most) {
  for (int64_t row = 0; row < place.keys; ++row) {
    const float* s = scores + row * kQueryTile;
    const Seen seen = seen_of(place, row);
    if (seen.none()) continue;
    if (seen.all()) {
#pragma omp simd
      for (int32_t c = 0; c < kQueryTile; ++c) {
        const float value = s[c] * scale;
        most[c] = value > most[c] ? value : most[c];
      }
    } else {
#pragma omp simd
      for (int32_t c = 0; c < kQueryTile; ++c) {
        const float value = s[c] * scale;
        const bool larger = (c >= seen.begin) & (c < seen.end) & (value > most[c]);
        most[c] = larger ? value : most[c];
      }
    }
  }
}

inline uint32_t bits_of(float value) {
  Bf16 half;
  store(&half, value);
  return half.bits;
}

// Two rows of keys at a time: that is how bf16 operands are packed.
template <class T>
void softmax(const float* scores, TilePlace place, float scale, SoftmaxState state, void* weights) {
  float before[kQueryTile];
  std::copy_n(state.most, kQueryTile, before);
  float* __restrict most = state.most;
  float* __restrict total = state.total;
  raise_most(scores, place, scale, most);
#pragma omp simd
  for (int32_t c = 0; c < kQueryTile; ++c) {
    state.correction[c] = fast_exp(before[c] - most[c]);
    total[c] *= state.correction[c];
  }
  for (int64_t row = 0; row < place.keys; row += 2) {
    const float* even = scores + row * kQueryTile;
    const float* odd = even + kQueryTile;
    const Seen see_even = seen_of(place, row), see_odd = seen_of(place, row + 1);
    float a[kQueryTile], b[kQueryTile];
    if (see_even.all() && see_odd.all()) {
#pragma omp simd
      for (int32_t c = 0; c < kQueryTile; ++c) {
        a[c] = fast_exp(even[c] * scale - most[c]);
        b[c] = fast_exp(odd[c] * scale - most[c]);
      }
    } else {
#pragma omp simd
      for (int32_t c = 0; c < kQueryTile; ++c) {
        const float p = fast_exp(even[c] * scale - most[c]), q = fast_exp(odd[c] * scale - most[c]);
        a[c] = (c >= see_even.begin) & (c < see_even.end) ? p : 0.0f;
        b[c] = (c >= see_odd.begin) & (c < see_odd.end) ? q : 0.0f;
      }
    }
#pragma omp simd
    for (int32_t c = 0; c < kQueryTile; ++c) total[c] += a[c] + b[c];
    if constexpr (sizeof(T) == 4) {
      float* to = static_cast<float*>(weights) + row * kQueryTile;
      std::copy_n(a, kQueryTile, to);
      std::copy_n(b, kQueryTile, to + kQueryTile);
    } else {
      uint32_t* to = static_cast<uint32_t*>(weights) + row / 2 * kQueryTile;
#pragma omp simd
      for (int32_t c = 0; c < kQueryTile; ++c) to[c] = bits_of(a[c]) | bits_of(b[c]) << 16;
    }
  }
}

// One row of the gradient: p and ds are zero where the query does not see the key.
inline void gradient_row(const float* s, const float* dp, Seen seen, float scale, const float* log_sum_exp,
                         const float* delta, float* __restrict p, float* __restrict ds) {
  if (seen.all()) {
#pragma omp simd
    for (int32_t c = 0; c < kQueryTile; ++c) {
      p[c] = fast_exp(s[c] * scale - log_sum_exp[c]);
      ds[c] = p[c] * (dp[c] - delta[c]) * scale;
    }
  } else {
#pragma omp simd
    for (int32_t c = 0; c < kQueryTile; ++c) {
      const bool sees = (c >= seen.begin) & (c < seen.end);
      const float weight = fast_exp(s[c] * scale - log_sum_exp[c]);
      const float gradient = weight * (dp[c] - delta[c]) * scale;
      p[c] = sees ? weight : 0.0f;
      ds[c] = sees ? gradient : 0.0f;
    }
  }
}

template <class T>
void softmax_backward(const float* scores, const float* weight_gradients, TilePlace place, float scale,
                      const float* log_sum_exp, const float* delta, void* weights_v, void* score_gradients_v,
                      void* packed_v) {
  T* weights = static_cast<T*>(weights_v);
  T* gradients = static_cast<T*>(score_gradients_v);
  for (int64_t row = 0; row < place.keys; row += 2) {
    const int64_t at = row * kQueryTile, next = at + kQueryTile;
    float p[2 * kQueryTile], ds[2 * kQueryTile];
    gradient_row(scores + at, weight_gradients + at, seen_of(place, row), scale, log_sum_exp, delta, p, ds);
    gradient_row(scores + next, weight_gradients + next, seen_of(place, row + 1), scale, log_sum_exp, delta,
                 p + kQueryTile, ds + kQueryTile);
#pragma omp simd
    for (int32_t c = 0; c < 2 * kQueryTile; ++c) {
      store(weights + at + c, p[c]);
      store(gradients + at + c, ds[c]);
    }
    if constexpr (sizeof(T) == 2) {
      uint32_t* packed = static_cast<uint32_t*>(packed_v) + row / 2 * kQueryTile;
#pragma omp simd
      for (int32_t c = 0; c < kQueryTile; ++c) packed[c] = bits_of(ds[c]) | bits_of(ds[c + kQueryTile]) << 16;
    }
  }
}

void scale_columns(float* columns, const float* factor, int64_t width) {
  for (int64_t i = 0; i < width; ++i, columns += kQueryTile) {
#pragma omp simd
    for (int32_t c = 0; c < kQueryTile; ++c) columns[c] *= factor[c];
  }
}

template <class T>
void store_columns(const float* columns, const float* factor, int64_t rows, int64_t width, void* y_v,
                   int64_t y_stride) {
  T* y = static_cast<T*>(y_v);
  constexpr int64_t kWidth = 32;
  alignas(64) float part[kQueryTile * kWidth];
  for (int64_t begin = 0; begin < width; begin += kWidth) {
    const int64_t count = std::min(kWidth, width - begin);
    transpose_words(columns + begin * kQueryTile, kQueryTile, count, kQueryTile, part, kWidth);
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = part + row * kWidth;
      T* to = y + row * y_stride + begin;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) store(to + i, from[i] * factor[row]);
    }
  }
}

template <class T>
void row_dots(const void* a_v, const void* b_v, int64_t stride, int64_t rows, int64_t width, float* y) {
  const T* a = static_cast<const T*>(a_v);
  const T* b = static_cast<const T*>(b_v);
  std::fill_n(y, kQueryTile, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += load(a + row * stride + i) * load(b + row * stride + i);
    y[row] = sum;
  }
}

template <class T>
void sum_parts(const float* parts, int64_t part_stride, int64_t count, int64_t rows, int64_t width, void* y_v,
               int64_t y_stride) {
  T* y = static_cast<T*>(y_v);
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = parts + row * width;
    T* to = y + row * y_stride;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      float sum = from[i];
      for (int64_t part = 1; part < count; ++part) sum += from[part * part_stride + i];
      store(to + i, sum);
    }
  }
}

template <class T, class Operand>
constexpr AttentionTiles table_of() {
  return {plain_rows<T>, pack_columns<T>,  pack_rows<T>, transpose<T>, softmax<Operand>, softmax_backward<Operand>,
          scale_columns, store_columns<T>, row_dots<T>,  sum_parts<T>};
}

}  // namespace

extern const AttentionTiles SLUICE_ATTENTION_TILES[kElementTypes];
const AttentionTiles SLUICE_ATTENTION_TILES[kElementTypes] = {table_of<float, float>(), table_of<Bf16, Bf16>(),
                                                              table_of<F16, float>()};

}  // namespace sluice::models
