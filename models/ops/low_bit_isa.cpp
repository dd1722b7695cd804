// Compiled once per instruction set: SLUICE_LOW_BIT names this copy's table (see CMakeLists.txt and
// low_bit_kernels.cpp).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#if defined(__AVX2__)
// GCC 12 warns of its own headers: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif

#include "models/ops/element.h"
#include "models/ops/low_bit_kernels.h"
#include "runtime/core/dynamic_map.h"

namespace sluice::models {
namespace {

// What is nearest to a value, by the midpoints between neighbours: values ascend, codes need not.
struct Boundaries {
  std::array<float, 15> midpoints;
  std::array<uint8_t, 16> codes;

  explicit Boundaries(LowBit kind) {
    const std::array<float, 16>& values = low_bit_values(kind);
    std::iota(codes.begin(), codes.end(), uint8_t{0});
    std::stable_sort(codes.begin(), codes.end(), [&](uint8_t a, uint8_t b) { return values[a] < values[b]; });
    for (size_t i = 0; i < midpoints.size(); ++i) midpoints[i] = (values[codes[i]] + values[codes[i + 1]]) / 2;
  }
};

// Places [count] of scaled values among the midpoints.
void find_places(const float* scaled, const Boundaries& boundaries, int32_t* places, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    int32_t place = 0;
    for (size_t b = 0; b < 15; ++b) place += boundaries.midpoints[b] < scaled[i] ? 1 : 0;
    places[i] = place;
  }
}

float largest_magnitude(const float* values, int64_t count) {
  float most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(values[i]));
  return most;
}

// Only the matrix's last block is short. bitsandbytes divides there, and multiplies by the reciprocal elsewhere.
void quantise_block(const float* values, int64_t count, const Boundaries& boundaries, uint8_t* codes, float* scale) {
  constexpr float kLeast = 1e-38f;
  const bool whole = count == kLowBitBlock;
  const float most = largest_magnitude(values, count), divisor = std::max(most, kLeast), factor = 1.0f / divisor;
  *scale = whole ? most : divisor;
  float scaled[kLowBitBlock + 1] = {};
  for (int64_t i = 0; i < count; ++i)
    scaled[i] = std::clamp(whole ? values[i] * factor : values[i] / divisor, -1.0f, 1.0f);
  int32_t places[kLowBitBlock + 1];
  const int64_t padded = count + count % 2;
  find_places(scaled, boundaries, places, padded);
  for (int64_t i = 0; i < padded; i += 2)
    codes[i / 2] = static_cast<uint8_t>(boundaries.codes[static_cast<size_t>(places[i])] << 4 |
                                        boundaries.codes[static_cast<size_t>(places[i + 1])]);
}

void quantise(LowBit kind, std::span<const float> values, uint8_t* codes, float* scales) {
  const Boundaries boundaries(kind);
  const auto count = static_cast<int64_t>(values.size());
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < low_bit_blocks(count); ++block) {
    const int64_t begin = block * kLowBitBlock;
    quantise_block(values.data() + begin, std::min(kLowBitBlock, count - begin), boundaries, codes + begin / 2,
                   scales + block);
  }
}

// --- the way back --------------------------------------------------------------------------------------------------

float scale_of(const StoredMatrix& from, int64_t block) {
  if (!from.format.double_quant) {
    float scale;
    std::memcpy(&scale, from.scales + block * 4, sizeof scale);
    return scale;
  }
  const float value = dynamic_values(DynamicMap::with_sign)[static_cast<size_t>(from.scales[block])];
  return value * from.nested_scales[block / kLowBitScaleBlock] + *from.nested_offset;
}

// The 16 values times a scale, rounded: the same numbers as element by element, as equal codes have equal products.
template <class T>
struct ScaledValues {
  alignas(64) std::array<T, 16> at;
  ScaledValues(const std::array<float, 16>& values, float scale) {
    for (size_t i = 0; i < 16; ++i) store(&at[i], values[i] * scale);
  }
};

// 2 * `bytes` elements, the codes' high halves first.
template <class T>
void look_up_scalar(const uint8_t* codes, const T* values, T* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; ++i) {
    to[2 * i] = values[codes[i] >> 4];
    to[2 * i + 1] = values[codes[i] & 15];
  }
}

#if defined(__AVX512BW__)
constexpr int64_t kVectorBytes = 64;

// Past the caches where whole lines are written: what is expanded is larger than they are.
void store_line(void* to, __m512i line) {
  if (reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0) {
    _mm512_stream_si512(static_cast<__m512i*>(to), line);
  } else {
    _mm512_storeu_si512(to, line);
  }
}

// Other threads read what this one wrote past the caches.
void finish_stores() { _mm_sfence(); }

// Sixteen finite numbers, rounded.
template <class T>
__m256i rounded_to(__m512 values);
template <>
__m256i rounded_to<Bf16>(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(nearest, 16));
}
template <>
__m256i rounded_to<F16>(__m512 values) {
  return _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// A whole block from registers. A permutation takes the low bits of each lane as the index: neither the high half's
// shift nor the low half's neighbour needs a mask where the table is repeated.
template <class T>
void expand_block(const uint8_t* codes, const std::array<float, 16>& values, float scale, T* to) {
  const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(values.data()), _mm512_set1_ps(scale));
  const __m512i table = _mm512_broadcast_i64x4(rounded_to<T>(scaled));
  for (int64_t i = 0; i < kLowBitBlock / 2; i += 16) {
    const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
    const __m512i index = _mm512_or_si512(_mm512_srli_epi32(code, 4), _mm512_slli_epi32(code, 16));
    store_line(to + 2 * i, _mm512_permutexvar_epi16(index, table));
  }
}
void expand_block(const uint8_t* codes, const std::array<float, 16>& values, float scale, float* to) {
  const __m512 table = _mm512_mul_ps(_mm512_loadu_ps(values.data()), _mm512_set1_ps(scale));
  for (int64_t i = 0; i < kLowBitBlock / 2; i += 8) {
    const __m512i code = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
    const __m512i index = _mm512_or_si512(_mm512_srli_epi64(code, 4), _mm512_slli_epi64(code, 32));
    store_line(to + 2 * i, _mm512_castps_si512(_mm512_permutexvar_ps(index, table)));
  }
}
#elif defined(__AVX2__)
void finish_stores() {}

// Low and high bytes of the 16 values are looked up apart.
template <class T>
void expand_block(const uint8_t* codes, const std::array<float, 16>& values, float scale, T* to) {
  const ScaledValues<T> scaled(values, scale);
  alignas(16) uint8_t low[16], high[16];
  for (size_t i = 0; i < 16; ++i) {
    low[i] = static_cast<uint8_t>(scaled.at[i].bits);
    high[i] = static_cast<uint8_t>(scaled.at[i].bits >> 8);
  }
  const __m128i low_table = _mm_load_si128(reinterpret_cast<const __m128i*>(low));
  const __m128i high_table = _mm_load_si128(reinterpret_cast<const __m128i*>(high));
  const __m128i mask = _mm_set1_epi8(15);
  for (int64_t i = 0; i < kLowBitBlock / 2; i += 8) {
    const __m128i code = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i));
    const __m128i first = _mm_and_si128(_mm_srli_epi16(code, 4), mask), second = _mm_and_si128(code, mask);
    const __m128i index = _mm_unpacklo_epi8(first, second);
    const __m128i lows = _mm_shuffle_epi8(low_table, index), highs = _mm_shuffle_epi8(high_table, index);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i), _mm_unpacklo_epi8(lows, highs));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i + 8), _mm_unpackhi_epi8(lows, highs));
  }
}
void expand_block(const uint8_t* codes, const std::array<float, 16>& values, float scale, float* to) {
  const __m256 factor = _mm256_set1_ps(scale);
  const __m256 low_table = _mm256_mul_ps(_mm256_loadu_ps(values.data()), factor);
  const __m256 high_table = _mm256_mul_ps(_mm256_loadu_ps(values.data() + 8), factor);
  const __m256i mask = _mm256_set1_epi64x(15);
  for (int64_t i = 0; i < kLowBitBlock / 2; i += 4) {
    int32_t four;
    std::memcpy(&four, codes + i, sizeof four);
    const __m256i code = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
    const __m256i index =
        _mm256_or_si256(_mm256_srli_epi64(code, 4), _mm256_slli_epi64(_mm256_and_si256(code, mask), 32));
    const __m256 low = _mm256_permutevar8x32_ps(low_table, index), high = _mm256_permutevar8x32_ps(high_table, index);
    // Bit 3 of the index, moved to the sign, chooses the half.
    _mm256_storeu_ps(to + 2 * i, _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
  }
}
#else
void finish_stores() {}

template <class T>
void expand_block(const uint8_t* codes, const std::array<float, 16>& values, float scale, T* to) {
  const ScaledValues<T> scaled(values, scale);
  look_up_scalar(codes, scaled.at.data(), to, kLowBitBlock / 2);
}
#endif

// A part of a block: elements [begin, end) of the flat matrix.
template <class T>
void expand_part(const uint8_t* codes, const std::array<float, 16>& values, float scale, int64_t begin, int64_t end,
                 T* to) {
  const ScaledValues<T> scaled(values, scale);
  if (begin % 2 != 0) {
    *to++ = scaled.at[codes[begin / 2] & 15];
    ++begin;
  }
  const int64_t pairs = (end - begin) / 2;
  look_up_scalar(codes + begin / 2, scaled.at.data(), to, pairs);
  if (begin + 2 * pairs < end) to[2 * pairs] = scaled.at[codes[begin / 2 + pairs] >> 4];
}

// Elements [begin, end) of the flat matrix.
template <class T>
void expand_nibbles(const StoredMatrix& from, int64_t begin, int64_t end, T* to) {
  const auto* codes = reinterpret_cast<const uint8_t*>(from.codes);
  const std::array<float, 16>& values = low_bit_values(from.format.kind);
  for (int64_t stop = 0; begin < end; to += stop - begin, begin = stop) {
    const int64_t block = begin / kLowBitBlock;
    stop = std::min(end, (block + 1) * kLowBitBlock);
    const float scale = scale_of(from, block);
    if (stop - begin == kLowBitBlock) {
      expand_block(codes + begin / 2, values, scale, to);
    } else {
      expand_part(codes, values, scale, begin, stop, to);
    }
  }
}

template <class T>
void expand_bytes(const StoredMatrix& from, int64_t row, MatrixRange range, T* to) {
  constexpr float kUnit = 7.874015718698502e-3f;  // 1 / 127, as bitsandbytes writes it
  const auto* codes = reinterpret_cast<const int8_t*>(from.codes) + row * from.columns + range.column;
  float scale;
  std::memcpy(&scale, from.scales + row * 4, sizeof scale);
#pragma omp simd
  for (int64_t i = 0; i < range.columns; ++i) store(to + i, static_cast<float>(codes[i]) * scale * kUnit);
}

// Some rows ahead: of a range of columns each row's piece is short, and the processor does not see the next one coming.
void prefetch_codes(const StoredMatrix& from, int64_t begin, int64_t columns) {
  constexpr int64_t kLineBytes = 64;
  const int64_t shift = from.format.kind == LowBit::int8 ? 0 : 1, end = (begin + columns) >> shift;
  for (int64_t at = begin >> shift; at < end; at += kLineBytes) __builtin_prefetch(from.codes + at);
}

template <class T>
void expand_row(const StoredMatrix& from, MatrixRange range, int64_t i, T* to) {
  constexpr int64_t kRowsAhead = 2;
  const int64_t row = range.row + i, begin = row * from.columns + range.column;
  if (range.columns < from.columns && row + kRowsAhead < from.rows)
    prefetch_codes(from, begin + kRowsAhead * from.columns, range.columns);
  if (from.format.kind == LowBit::int8) {
    expand_bytes(from, row, range, to);
  } else {
    expand_nibbles(from, begin, begin + range.columns, to);
  }
}

template <class T>
void expand_rows(const StoredMatrix& from, MatrixRange range, T* to, int64_t stride) {
#pragma omp parallel
  {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < range.rows; ++i) expand_row(from, range, i, to + i * stride);
    finish_stores();
  }
}

void expand(Dtype dtype, const StoredMatrix& from, MatrixRange range, void* to, int64_t stride) {
  with_elements(to, dtype, [&](auto* rows) { expand_rows(from, range, rows, stride); });
}

}  // namespace

extern const LowBitKernels SLUICE_LOW_BIT;
const LowBitKernels SLUICE_LOW_BIT = {.expand = expand, .quantise = quantise};

}  // namespace sluice::models
