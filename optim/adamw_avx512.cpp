// Sixteen elements at a time; compiled for x86-64-v4 (AVX-512 F, BW, CD, DQ, VL).
#include <immintrin.h>

#include "optim/adamw_updates.h"

namespace sluice::optim {
namespace {

__m256i load_16x16(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

// The low 16 bits of each element.
void store_low_halves(void* at, __m512i x) { _mm256_storeu_si256(static_cast<__m256i*>(at), _mm512_cvtepi32_epi16(x)); }

struct Sixteen {
  using F = __m512;
  using Draws = __m512i;
  static constexpr int64_t kLanes = 16;
  static F broadcast(float x) { return _mm512_set1_ps(x); }
  static F load(const float* at) { return _mm512_loadu_ps(at); }
  static F load(const uint16_t* at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16x16(at)), 16));
  }
  static F load(const F16* at) { return _mm512_cvtph_ps(load_16x16(at)); }
  static void store(float* at, F x) { _mm512_storeu_ps(at, x); }
  static void store(F16* at, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static F load_split(const uint16_t* hi, const int16_t* lo) {
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16x16(hi)), 16);
    return _mm512_castsi512_ps(_mm512_add_epi32(high, _mm512_cvtepi16_epi32(load_16x16(lo))));
  }
  static void store_split(uint16_t* hi, int16_t* lo, F x) {
    const __m512i bits = _mm512_castps_si512(x);
    store_low_halves(hi, _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x8000)), 16));
    store_low_halves(lo, bits);
  }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F sqrt(F x) { return _mm512_sqrt_ps(x); }

  static Draws draw(RoundingKey key, uint32_t first) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i x = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first + key.offset)));
    x = _mm512_mullo_epi32(x, _mm512_set1_epi32(static_cast<int>(key.factor)));
    x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)),
                           _mm512_set1_epi32(static_cast<int>(0x85ebca6bu)));
    x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 13)),
                           _mm512_set1_epi32(static_cast<int>(0xc2b2ae35u)));
    return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
  }
  static Draws high_half(Draws draws) { return _mm512_srli_epi32(draws, 16); }
  static void store_by_draw(uint16_t* at, F x, Draws draws) {
    const __m512i low = _mm512_and_si512(draws, _mm512_set1_epi32(0xffff));
    store_low_halves(at, _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(x), low), 16));
  }

  static F larger_magnitude(F most, F x) { return _mm512_max_ps(_mm512_abs_ps(x), most); }
  static float largest(F most) { return _mm512_reduce_max_ps(most); }
  static F values_of(const uint8_t* codes, const float* values) {
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    return _mm512_i32gather_ps(index, values, 4);
  }
  static void store_codes(uint8_t* at, F normed, const uint8_t* code_of_step) {
    const F one = broadcast(1.0f);
    const F clamped = _mm512_max_ps(_mm512_min_ps(normed, one), broadcast(-1.0f));
    const F step = (clamped + one) * broadcast(0.5f) * broadcast(kDynamicSteps - 1) + broadcast(0.5f);
    const __m512i found = _mm512_i32gather_epi32(_mm512_cvttps_epi32(step), code_of_step, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtepi32_epi8(found));
  }

  class Sums {
   public:
    template <class G>
    void add_squares(const G* g) {
      const F value = load(g);
      add(sums_[0], _mm512_castps512_ps256(value));
      add(sums_[1], _mm512_extractf32x8_ps(value, 1));
    }
    void store(double* to) const {
      _mm512_storeu_pd(to, sums_[0]);
      _mm512_storeu_pd(to + 8, sums_[1]);
    }

   private:
    static void add(__m512d& sum, __m256 floats) {
      const __m512d value = _mm512_cvtps_pd(floats);
      sum += value * value;
    }

    __m512d sums_[2] = {};
  };
};

}  // namespace

extern const AdamWKernels adamw_avx512;
const AdamWKernels adamw_avx512 = kernels_over<Sixteen>();

}  // namespace sluice::optim
