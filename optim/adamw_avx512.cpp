// Sixteen elements at a time; compiled for x86-64-v4 (AVX-512 F, BW, CD, DQ, VL) and VBMI.
#include <immintrin.h>

#include <limits>

#include "optim/adamw_updates.h"
#include "optim/avx512_pairs.h"

namespace sluice::optim {
namespace {

__m256i load_16x16(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

// The low 16 bits of each element.
void store_low_halves(void* at, __m512i x) { _mm256_storeu_si256(static_cast<__m256i*>(at), _mm512_cvtepi32_epi16(x)); }

// Where 64 bytes go before they are unpacked to four registers of numbers, and after those were packed: both work
// inside each quarter of a register.
struct ByteOrder {
  alignas(64) uint8_t before_unpacking[64], after_packing[64];
};
// `element`: which of the 64 is number `lane` of register `part`.
constexpr ByteOrder byte_order(int (*element)(int part, int lane)) {
  ByteOrder order{};
  for (int part = 0; part < 4; ++part)
    for (int lane = 0; lane < 16; ++lane) {
      const int packed = 16 * (lane / 4) + 4 * part + lane % 4;
      order.before_unpacking[packed] = static_cast<uint8_t>(element(part, lane));
      order.after_packing[element(part, lane)] = static_cast<uint8_t>(packed);
    }
  return order;
}
constexpr ByteOrder kInOrder = byte_order([](int part, int lane) { return 16 * part + lane; });
constexpr ByteOrder kInPairs = byte_order([](int part, int lane) { return 32 * (part / 2) + part % 2 + 2 * lane; });

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
  static F quotient(F x, F by, F inverse) {
    const F corrected = corrected_quotient<Sixteen>(x, by, inverse);
    const F infinity = broadcast(std::numeric_limits<float>::infinity());
    return _mm512_mask_mov_ps(infinity, _mm512_cmp_ps_mask(x, infinity, _CMP_NEQ_UQ), corrected);
  }

  static F sign(F x) {
    const F positive = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, broadcast(0), _CMP_GT_OQ), broadcast(1.0f));
    return _mm512_mask_mov_ps(positive, _mm512_cmp_ps_mask(x, broadcast(0), _CMP_LT_OQ), broadcast(-1.0f));
  }

  static Draws draw(RoundingKey key, uint32_t first) {
    return draw(key, _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), first);
  }
  // Of the elements `first` + `lanes`.
  static Draws draw(RoundingKey key, __m512i lanes, uint32_t first) {
    const auto all = [](uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); };
    const auto folded = [](Draws x, int by) {
      return _mm512_xor_si512(x, _mm512_srli_epi32(x, static_cast<unsigned>(by)));
    };
    Draws x = _mm512_add_epi32(lanes, all(first + key.before));
    x = _mm512_mullo_epi32(folded(x, 16), all(kFirstDrawFactor));
    x = _mm512_mullo_epi32(_mm512_add_epi32(folded(x, 15), all(key.between)), all(kSecondDrawFactor));
    return folded(x, 16);
  }
  static Draws low_half(Draws draws) { return _mm512_and_si512(draws, _mm512_set1_epi32(0xffff)); }
  static Draws high_half(Draws draws) { return _mm512_srli_epi32(draws, 16); }
  static void store_by_draw(uint16_t* at, F x, Draws half) {
    store_low_halves(at, _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(x), half), 16));
  }

  static F larger_magnitude(F most, F x) { return _mm512_max_ps(_mm512_abs_ps(x), most); }
  static float largest(F most) { return _mm512_reduce_max_ps(most); }

  static constexpr int64_t place(int64_t i) { return i; }
  static F load_placed(const float* at) { return _mm512_load_ps(at); }
  static void store_placed(float* at, F x) { _mm512_store_ps(at, x); }
  static void expand(const uint8_t* codes, int64_t count, DynamicMap map, float* to) {
    expand_in(kInOrder, codes, count, map, to);
  }
  static void store_codes(const float* from, int64_t count, float factor, DynamicMap map, uint8_t* to) {
    store_codes_in(kInOrder, from, count, factor, map, to);
  }
  // 64 codes at a time: bytes of the values are looked up plane by plane, then put together.
  static void expand_in(const ByteOrder& order, const uint8_t* codes, int64_t count, DynamicMap map, float* to) {
    const DynamicPlanes& planes = dynamic_planes(map);
    const __m512i before_unpacking = _mm512_load_si512(order.before_unpacking);
    for (int64_t i = 0; i < count; i += 64) {
      const __m512i index = _mm512_permutexvar_epi8(before_unpacking, _mm512_loadu_si512(codes + i));
      const __mmask64 upper = _mm512_movepi8_mask(index);
      __m512i bytes[4];
      for (int plane = 0; plane < 4; ++plane) {
        const auto quarter = [&](int part) { return _mm512_load_si512(planes.bytes[plane] + 64 * part); };
        const __m512i low = _mm512_permutex2var_epi8(quarter(0), index, quarter(1));
        const __m512i high = _mm512_permutex2var_epi8(quarter(2), index, quarter(3));
        bytes[plane] = _mm512_mask_mov_epi8(low, upper, high);
      }
      const __m512i low_01 = _mm512_unpacklo_epi8(bytes[0], bytes[1]),
                    high_01 = _mm512_unpackhi_epi8(bytes[0], bytes[1]);
      const __m512i low_23 = _mm512_unpacklo_epi8(bytes[2], bytes[3]),
                    high_23 = _mm512_unpackhi_epi8(bytes[2], bytes[3]);
      _mm512_store_si512(to + i, _mm512_unpacklo_epi16(low_01, low_23));
      _mm512_store_si512(to + i + 16, _mm512_unpackhi_epi16(low_01, low_23));
      _mm512_store_si512(to + i + 32, _mm512_unpacklo_epi16(high_01, high_23));
      _mm512_store_si512(to + i + 48, _mm512_unpackhi_epi16(high_01, high_23));
    }
  }
  static void store_codes_in(const ByteOrder& order, const float* from, int64_t count, float factor, DynamicMap map,
                             uint8_t* to) {
    const DynamicLines& lines = dynamic_lines(map);
    const __m512i after_packing = _mm512_load_si512(order.after_packing);
    const __m512i few = _mm512_load_si512(lines.first_codes);
    for (int64_t i = 0; i < count; i += 64) {
      __m512i steps[4], codes[4];
      for (int part = 0; part < 4; ++part)
        find_codes(lines, map, load(from + i + 16 * part) * broadcast(factor), steps[part], codes[part]);
      const Distances low = distances(map, steps[0], steps[1]), high = distances(map, steps[2], steps[3]);
      // Near the middle a table has them; elsewhere the lines.
      const __m512i near = _mm512_packus_epi16(low.from_middle, high.from_middle);
      const __mmask64 is_near = _mm512_testn_epi8_mask(near, _mm512_set1_epi8(static_cast<char>(0xc0)));
      __m512i code =
          _mm512_packus_epi16(_mm512_packus_epi32(codes[0], codes[1]), _mm512_packus_epi32(codes[2], codes[3]));
      code = _mm512_mask_permutexvar_epi8(code, is_near, near, few);
      if (map == DynamicMap::with_sign) {
        const __m512i zero_code = _mm512_set1_epi8(127);
        const __mmask64 negative = _mm512_movepi8_mask(_mm512_packs_epi16(low.negative, high.negative));
        code = _mm512_mask_sub_epi8(_mm512_add_epi8(zero_code, code), negative, zero_code, code);
      }
      _mm512_storeu_si512(to + i, _mm512_permutexvar_epi8(after_packing, code));
    }
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

 private:
  // dynamic_step and, beyond the first 64 steps, DynamicLines: codes counted from that of zero, without their sign.
  static void find_codes(const DynamicLines& lines, DynamicMap map, F normed, __m512i& step, __m512i& code) {
    step = _mm512_cvttps_epi32((normed + broadcast(1.0f)) * broadcast(kMiddleStep) + broadcast(0.5f));
    const F from_middle = _mm512_cvtepi32_ps(step) - broadcast(kMiddleStep);
    const F a = map == DynamicMap::with_sign ? _mm512_abs_ps(from_middle) : from_middle;
    F found = _mm512_min_ps(fma(broadcast(lines.slope[0]), a, broadcast(lines.begin[0])), broadcast(lines.last[0]));
    constexpr size_t kBeyondTable = 3;
    for (size_t d = 1; d < kBeyondTable; ++d) {
      const __mmask16 below = _mm512_cmp_ps_mask(a, broadcast(lines.border[d]), _CMP_LT_OQ);
      const F on_line = fma(broadcast(lines.slope[d]), a, broadcast(lines.begin[d]));
      found = _mm512_mask_min_ps(found, below, on_line, broadcast(lines.last[d]));
    }
    const __mmask16 top = _mm512_cmp_ps_mask(from_middle, broadcast(lines.top), _CMP_GT_OQ);
    code = _mm512_cvttps_epi32(found);
    code = _mm512_mask_add_epi32(code, top, code, _mm512_set1_epi32(1));
  }
  // Of 32 steps, in the order of packing: how many steps from the middle, and whether below it (all ones).
  struct Distances {
    __m512i from_middle, negative;
  };
  static Distances distances(DynamicMap map, __m512i first, __m512i second) {
    const __m512i offset = _mm512_xor_si512(_mm512_packus_epi32(first, second), _mm512_set1_epi16(INT16_MIN));
    if (map == DynamicMap::unsigned_only) return {offset, __m512i{}};
    const __m512i negative = _mm512_srai_epi16(offset, 15);
    return {_mm512_xor_si512(offset, negative), negative};
  }
};

struct ThirtyTwo {
  using F = Pair;
  using Draws = PairOfInts;
  static constexpr int64_t kLanes = 32;
  static F broadcast(float x) { return {Sixteen::broadcast(x), Sixteen::broadcast(x)}; }
  static F load(const float* at) { return parted(Sixteen::load(at), Sixteen::load(at + 16)); }
  static F load(const uint16_t* at) { return floats(high_halves(_mm512_loadu_si512(at))); }
  static F load(const F16* at) { return parted(Sixteen::load(at), Sixteen::load(at + 16)); }
  static F load_split(const uint16_t* hi, const int16_t* lo) {
    return join_masters(_mm512_loadu_si512(hi), _mm512_loadu_si512(lo));
  }
  static void store_split(uint16_t* hi, int16_t* lo, F x) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    const PairOfInts all = bits(x);
    _mm512_storeu_si512(hi, words_of_high_halves({_mm512_add_epi32(all.even, half), _mm512_add_epi32(all.odd, half)}));
    _mm512_storeu_si512(lo, words_of_low_halves(all));
  }
  static F fma(F a, F b, F c) { return {Sixteen::fma(a.even, b.even, c.even), Sixteen::fma(a.odd, b.odd, c.odd)}; }
  static F sqrt(F x) { return {_mm512_sqrt_ps(x.even), _mm512_sqrt_ps(x.odd)}; }
  static F quotient(F x, F by, F inverse) {
    return {Sixteen::quotient(x.even, by.even, inverse.even), Sixteen::quotient(x.odd, by.odd, inverse.odd)};
  }

  static F sign(F x) { return {Sixteen::sign(x.even), Sixteen::sign(x.odd)}; }

  static Draws draw(RoundingKey key, uint32_t first) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return {Sixteen::draw(key, even, first), Sixteen::draw(key, even, first + 1)};
  }
  static Draws low_half(Draws x) { return {Sixteen::low_half(x.even), Sixteen::low_half(x.odd)}; }
  static Draws high_half(Draws x) { return {Sixteen::high_half(x.even), Sixteen::high_half(x.odd)}; }
  static void store_by_draw(uint16_t* at, F x, Draws half) {
    const PairOfInts all = bits(x);
    _mm512_storeu_si512(
        at, words_of_high_halves({_mm512_add_epi32(all.even, half.even), _mm512_add_epi32(all.odd, half.odd)}));
  }

  static F larger_magnitude(F most, F x) {
    return {Sixteen::larger_magnitude(most.even, x.even), Sixteen::larger_magnitude(most.odd, x.odd)};
  }
  static float largest(F most) { return Sixteen::largest(_mm512_max_ps(most.even, most.odd)); }

  static constexpr int64_t place(int64_t i) { return i / 32 * 32 + i % 2 * 16 + i % 32 / 2; }
  static F load_placed(const float* at) { return {_mm512_load_ps(at), _mm512_load_ps(at + 16)}; }
  static void store_placed(float* at, F x) {
    _mm512_store_ps(at, x.even);
    _mm512_store_ps(at + 16, x.odd);
  }
  static void expand(const uint8_t* codes, int64_t count, DynamicMap map, float* to) {
    Sixteen::expand_in(kInPairs, codes, count, map, to);
  }
  static void store_codes(const float* from, int64_t count, float factor, DynamicMap map, uint8_t* to) {
    Sixteen::store_codes_in(kInPairs, from, count, factor, map, to);
  }
};

}  // namespace

extern const AdamWKernels adamw_avx512;
const AdamWKernels adamw_avx512 = kernels_over<Sixteen, ThirtyTwo>();

}  // namespace sluice::optim
