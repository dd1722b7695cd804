// Eight elements at a time; compiled for x86-64-v3 (AVX2 and FMA).
#include <immintrin.h>

#include "optim/adamw_updates.h"

namespace sluice::optim {
namespace {

__m128i load_8x16(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }

// The low 16 bits of each element.
void store_low_halves(void* at, __m256i x) {
  const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0b1000);
  _mm_storeu_si128(static_cast<__m128i*>(at), _mm256_castsi256_si128(packed));
}

struct Eight {
  using F = __m256;
  using Draws = __m256i;
  static constexpr int64_t kLanes = 8;
  static F broadcast(float x) { return _mm256_set1_ps(x); }
  static F load(const float* at) { return _mm256_loadu_ps(at); }
  static F load(const uint16_t* at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_8x16(at)), 16));
  }
  static F load(const F16* at) { return _mm256_cvtph_ps(load_8x16(at)); }
  static void store(float* at, F x) { _mm256_storeu_ps(at, x); }
  static void store(F16* at, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static F load_split(const uint16_t* hi, const int16_t* lo) {
    const __m256i high = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load_8x16(hi)), 16);
    return _mm256_castsi256_ps(_mm256_add_epi32(high, _mm256_cvtepi16_epi32(load_8x16(lo))));
  }
  static void store_split(uint16_t* hi, int16_t* lo, F x) {
    const __m256i bits = _mm256_castps_si256(x);
    store_low_halves(hi, _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x8000)), 16));
    store_low_halves(lo, bits);
  }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F sqrt(F x) { return _mm256_sqrt_ps(x); }
  static F quotient(F x, F by, F) { return x / by; }
  static F sign(F x) {
    const auto one_where = [&](F holds) { return _mm256_and_ps(holds, broadcast(1.0f)); };
    const F zero = broadcast(0);
    return one_where(_mm256_cmp_ps(x, zero, _CMP_GT_OQ)) - one_where(_mm256_cmp_ps(x, zero, _CMP_LT_OQ));
  }

  static Draws draw(RoundingKey key, uint32_t first) {
    const auto all = [](uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); };
    const auto folded = [](Draws x, int by) { return _mm256_xor_si256(x, _mm256_srli_epi32(x, by)); };
    const __m256i lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    Draws x = _mm256_add_epi32(lanes, all(first + key.before));
    x = _mm256_mullo_epi32(folded(x, 16), all(kFirstDrawFactor));
    x = _mm256_mullo_epi32(_mm256_add_epi32(folded(x, 15), all(key.between)), all(kSecondDrawFactor));
    return folded(x, 16);
  }
  static Draws low_half(Draws draws) { return _mm256_and_si256(draws, _mm256_set1_epi32(0xffff)); }
  static Draws high_half(Draws draws) { return _mm256_srli_epi32(draws, 16); }
  static void store_by_draw(uint16_t* at, F x, Draws half) {
    store_low_halves(at, _mm256_srli_epi32(_mm256_add_epi32(_mm256_castps_si256(x), half), 16));
  }

  static F larger_magnitude(F most, F x) { return _mm256_max_ps(_mm256_andnot_ps(broadcast(-0.0f), x), most); }
  static float largest(F most) {
    alignas(32) float all[kLanes];
    _mm256_store_ps(all, most);
    float found = 0;
    for (const float each : all) found = each > found ? each : found;
    return found;
  }

  static constexpr int64_t place(int64_t i) { return i; }
  static F load_placed(const float* at) { return load(at); }
  static void store_placed(float* at, F x) { store(at, x); }
  static void expand(const uint8_t* codes, int64_t count, DynamicMap map, float* to) {
    const float* const values = dynamic_values(map).data();
    for (int64_t i = 0; i < count; i += kLanes) {
      const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
      _mm256_store_ps(to + i, _mm256_i32gather_ps(values, index, 4));
    }
  }
  static void store_codes(const float* from, int64_t count, float factor, DynamicMap map, uint8_t* to) {
    const DynamicLines& lines = dynamic_lines(map);
    for (int64_t i = 0; i < count; i += 32) {
      const auto codes = [&](int64_t at) { return codes_on(lines, map, load(from + i + at) * broadcast(factor)); };
      const __m256i low = _mm256_packus_epi32(codes(0), codes(8)), high = _mm256_packus_epi32(codes(16), codes(24));
      // Packing works inside each half of a register.
      const __m256i in_order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                          _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), in_order));
    }
  }

  class Sums {
   public:
    template <class G>
    void add_squares(const G* g) {
      for (int half = 0; half < 2; ++half) {
        const F value = load(g + half * kLanes);
        add(sums_[2 * half], _mm256_castps256_ps128(value));
        add(sums_[2 * half + 1], _mm256_extractf128_ps(value, 1));
      }
    }
    void store(double* to) const {
      for (int i = 0; i < 4; ++i) _mm256_storeu_pd(to + 4 * i, sums_[i]);
    }

   private:
    static void add(__m256d& sum, __m128 floats) {
      const __m256d value = _mm256_cvtps_pd(floats);
      sum += value * value;
    }

    __m256d sums_[4] = {};
  };

 private:
  // dynamic_step, whose clamp changes nothing here, as the magnitude of `normed` is at most a rounding above 1; then
  // DynamicLines.
  static __m256i codes_on(const DynamicLines& lines, DynamicMap map, F normed) {
    const F step = (normed + broadcast(1.0f)) * broadcast(kMiddleStep) + broadcast(0.5f);
    const F from_middle = _mm256_cvtepi32_ps(_mm256_cvttps_epi32(step)) - broadcast(kMiddleStep);
    const F a = map == DynamicMap::with_sign ? _mm256_andnot_ps(broadcast(-0.0f), from_middle) : from_middle;
    F found = fma(broadcast(lines.slope[0]), a, broadcast(lines.begin[0]));
    for (size_t d = 1; d < kDynamicDecades; ++d) {
      const F on_line = fma(broadcast(lines.slope[d]), a, broadcast(lines.begin[d]));
      const F below = _mm256_cmp_ps(a, broadcast(lines.border[d]), _CMP_LT_OQ);
      found = _mm256_blendv_ps(found, _mm256_min_ps(on_line, broadcast(lines.last[d])), below);
    }
    __m256i code = _mm256_cvttps_epi32(_mm256_min_ps(found, broadcast(lines.last[0])));
    if (map == DynamicMap::with_sign)
      code = _mm256_add_epi32(_mm256_set1_epi32(127), _mm256_sign_epi32(code, _mm256_castps_si256(from_middle)));
    const __m256i top = _mm256_castps_si256(_mm256_cmp_ps(from_middle, broadcast(lines.top), _CMP_GT_OQ));
    return _mm256_sub_epi32(code, top);
  }
};

}  // namespace

extern const AdamWKernels adamw_avx2;
const AdamWKernels adamw_avx2 = kernels_over<Eight>();

}  // namespace sluice::optim
