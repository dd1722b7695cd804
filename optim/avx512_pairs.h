// Thirty-two elements as two registers, those with even indices and those with odd ones: 16-bit arrays come apart and
// together again without their elements crossing lanes, at a third of the instructions. Only adamw_avx512.cpp includes
// this.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace sluice::optim {
namespace {

struct Pair {
  __m512 even, odd;
  friend Pair operator+(Pair a, Pair b) { return {a.even + b.even, a.odd + b.odd}; }
  friend Pair operator-(Pair a, Pair b) { return {a.even - b.even, a.odd - b.odd}; }
  friend Pair operator*(Pair a, Pair b) { return {a.even * b.even, a.odd * b.odd}; }
  friend Pair operator/(Pair a, Pair b) { return {a.even / b.even, a.odd / b.odd}; }
};
struct PairOfInts {
  __m512i even, odd;
};

constexpr __mmask32 kOddWords = 0xaaaaaaaa;

// 16-bit elements: even ones into the high half of each number and odd ones likewise.
inline PairOfInts high_halves(__m512i words) {
  return {_mm512_slli_epi32(words, 16), _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000)))};
}
// And back.
inline __m512i words_of_high_halves(PairOfInts x) {
  return _mm512_mask_mov_epi16(_mm512_srli_epi32(x.even, 16), kOddWords, x.odd);
}
inline __m512i words_of_low_halves(PairOfInts x) {
  return _mm512_mask_mov_epi16(x.even, kOddWords, _mm512_slli_epi32(x.odd, 16));
}

inline Pair floats(PairOfInts x) { return {_mm512_castsi512_ps(x.even), _mm512_castsi512_ps(x.odd)}; }
inline PairOfInts bits(Pair x) { return {_mm512_castps_si512(x.even), _mm512_castps_si512(x.odd)}; }

// (hi << 16) + lo, with signed lo: what lo borrows is taken from hi first.
inline Pair join_masters(__m512i hi, __m512i lo) {
  const __m512i high = _mm512_add_epi16(hi, _mm512_srai_epi16(lo, 15));
  return floats({_mm512_mask_mov_epi16(_mm512_slli_epi32(high, 16), 0x55555555, lo),
                 _mm512_mask_mov_epi16(_mm512_srli_epi32(lo, 16), kOddWords, high)});
}

// Sixteen elements and the sixteen after them.
inline Pair parted(__m512 first, __m512 second) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return {_mm512_permutex2var_ps(first, even, second), _mm512_permutex2var_ps(first, odd, second)};
}

}  // namespace
}  // namespace sluice::optim
