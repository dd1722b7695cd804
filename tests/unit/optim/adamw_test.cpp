#include "optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "runtime/core/dynamic_map.h"
#include "tests/unit/optim/random_states.h"

namespace sluice::optim {
namespace {

constexpr AdamWSettings kSettings{.learning_rate = 1e-3, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.7f};

// Every format and both gradient dtypes, one after the other on the same states.
void update_everything(Isa isa, const AdamWSettings& settings, States& s) {
  adamw_f32(isa, settings, s.p, {.f32 = s.g, .bf16 = {}}, s.m, s.v);
  adamw_f32(isa, settings, s.p, {.f32 = {}, .bf16 = s.g_bf16}, s.m, s.v);
  adamw_split(isa, settings, s.hi, s.lo, {.f32 = s.g, .bf16 = {}}, s.m, s.v);
  adamw_split(isa, settings, s.hi, s.lo, {.f32 = {}, .bf16 = s.g_bf16}, s.m, s.v);
}

TEST(AdamW, EveryInstructionSetGivesTheScalarBits) {
  for (const size_t count : {1, 7, 16, 31, 63, 64, 65, 127, 1003, 65536 + 5}) {
    for (const double beta1 : {0.9, 0.3}) {
      const States start = random_states(count, count);
      AdamWSettings settings = kSettings;
      settings.beta1 = beta1;
      States scalar = start;
      update_everything(Isa::scalar, settings, scalar);
      ASSERT_FALSE(same_bits(start, scalar));
      for (const Isa isa : runnable_isas()) {
        States other = start;
        update_everything(isa, settings, other);
        EXPECT_TRUE(same_bits(scalar, other)) << name_of(isa) << ", " << count << " elements, beta1 " << beta1;
      }
    }
  }
}

// All formats of weights, gradients and moments on arrays of random bytes that are finite numbers.
struct ArraysOfAllKinds {
  explicit ArraysOfAllKinds(size_t count) {
    std::mt19937_64 random(count);
    std::normal_distribution<float> normal;
    for (auto* values : {&weights, &master, &gradients, &m, &v}) {
      values->resize(count);
      for (float& value : *values) value = normal(random);
    }
    for (size_t i = 0; i < count; ++i) v[i] = std::fabs(v[i]) * (i % 7 == 0 ? 1e-12f : 1.0f);
    for (size_t i = 0; i < count; ++i) {
      m_bf16.push_back(float_to_bf16(m[i]));
      v_bf16.push_back(float_to_bf16(v[i]));
      // Numbers whether read as one fp32 or as two of 16 bits.
      const auto twice = [](uint32_t half) { return std::bit_cast<float>(half << 16 | half); };
      gradients[i] = twice(float_to_bf16(gradients[i] * 0.01f) & 0xbfffu);
    }
    for (auto* codes : {&m_codes, &v_codes}) {
      codes->resize(count);
      for (uint8_t& code : *codes) code = static_cast<uint8_t>(random());
    }
    m_scales.assign(count / kStateBlock + 1, 0.3f);
    v_scales = m_scales;
    m_scales[0] = 0;
    // A block whose largest moment is so small that its inverse overflows.
    if (count >= 2 * kStateBlock) {
      m_scales[1] = v_scales[1] = 1e-39f;
      std::fill_n(gradients.begin() + kStateBlock, kStateBlock, 0.0f);
    }
  }
  AdamWArrays arrays(Dtype weight_dtype, Dtype gradient_dtype, MomentFormat moments) {
    return arrays(weight_dtype, gradient_dtype, moments, 0, static_cast<int64_t>(weights.size()));
  }
  AdamWArrays arrays(Dtype weight_dtype, Dtype gradient_dtype, MomentFormat moments, int64_t begin, int64_t end) {
    const auto moments_in = [&](auto& f32, auto& bf16, auto& codes) -> void* {
      if (moments == MomentFormat::f32) return f32.data() + begin;
      return moments == MomentFormat::bf16 ? static_cast<void*>(bf16.data() + begin) : codes.data() + begin;
    };
    const auto at = [&](std::vector<float>& values, Dtype dtype) {
      return reinterpret_cast<std::byte*>(values.data()) + begin * size_of(dtype);
    };
    const Dtype master_dtype = weight_dtype == Dtype::bf16 ? Dtype::i16 : Dtype::f32;
    return {.count = end - begin,
            .weight_dtype = weight_dtype,
            .weights = at(weights, weight_dtype),
            .master = weight_dtype == Dtype::f32 ? nullptr : at(master, master_dtype),
            .gradient_dtype = gradient_dtype,
            .gradients = at(gradients, gradient_dtype),
            .moments = moments,
            .m = moments_in(m, m_bf16, m_codes),
            .v = moments_in(v, v_bf16, v_codes),
            .m_scales = m_scales.data() + begin / kStateBlock,
            .v_scales = v_scales.data() + begin / kStateBlock,
            .group = 2,
            .first = 512 + begin};
  }
  bool operator==(const ArraysOfAllKinds& other) const {
    return same_bits(weights, other.weights) && same_bits(master, other.master) && same_bits(m, other.m) &&
           same_bits(v, other.v) && m_bf16 == other.m_bf16 && v_bf16 == other.v_bf16 && m_codes == other.m_codes &&
           v_codes == other.v_codes && same_bits(m_scales, other.m_scales) && same_bits(v_scales, other.v_scales);
  }

  std::vector<float> weights, master, gradients, m, v, m_scales, v_scales;
  std::vector<uint16_t> m_bf16, v_bf16;
  std::vector<uint8_t> m_codes, v_codes;
};

TEST(AdamW, EveryInstructionSetGivesTheScalarBitsInEveryFormat) {
  constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::bf16, Dtype::f16};
  for (const size_t count : {1, 77, 256, 300, 1024, 5000})
    for (const Dtype weights : kDtypes)
      for (const Dtype gradients : kDtypes)
        for (const MomentFormat moments : {MomentFormat::f32, MomentFormat::bf16, MomentFormat::int8})
          for (const UpdateRule rule : {UpdateRule::adamw, UpdateRule::lion}) {
            const ArraysOfAllKinds start(count);
            ArraysOfAllKinds scalar = start;
            AdamWSettings settings = kSettings;
            settings.seed = 5;
            const auto of_rule = [&](AdamWArrays arrays) {
              arrays.rule = rule;
              return arrays;
            };
            update(Isa::scalar, settings, of_rule(scalar.arrays(weights, gradients, moments)));
            ASSERT_FALSE(scalar == start);
            for (const Isa isa : runnable_isas()) {
              ArraysOfAllKinds other = start;
              update(isa, settings, of_rule(other.arrays(weights, gradients, moments)));
              EXPECT_TRUE(scalar == other)
                  << name_of(isa) << ", " << name_of(rule) << ", " << count << " elements of " << name_of(weights)
                  << ", gradients " << name_of(gradients) << ", moments " << name_of(moments);
            }
          }
}

// Through the update: with b1 = b2 = 1/2, states of zero and gradients of twice the moment, m and v are what one likes.
TEST(AdamW, EveryStepHasTheCodeOfTheTable) {
  constexpr AdamWSettings kHalves{.learning_rate = 0, .beta1 = 0.5, .beta2 = 0.5, .step = 1};
  for (const bool of_v : {false, true})
    for (uint32_t begin = 0; begin < kDynamicSteps; begin += kStateBlock - 1) {
      const size_t count = std::min<size_t>(kStateBlock - 1, kDynamicSteps - begin);
      std::vector<float> p(kStateBlock), g(kStateBlock), m_scales(1), v_scales(1);
      std::vector<uint8_t> m(kStateBlock), v(kStateBlock);
      for (size_t i = 0; i < count; ++i) {
        const double value = -1.0 + 2.0 * static_cast<double>(begin + i) / (kDynamicSteps - 1);
        g[i] = static_cast<float>(of_v ? std::sqrt(2 * std::fabs(value)) : 2 * value);
      }
      g[kStateBlock - 1] = of_v ? std::sqrt(2.0f) : 2.0f;  // the largest
      const AdamWArrays arrays{.count = kStateBlock,
                               .weights = p.data(),
                               .gradients = g.data(),
                               .moments = MomentFormat::int8,
                               .m = m.data(),
                               .v = v.data(),
                               .m_scales = m_scales.data(),
                               .v_scales = v_scales.data()};
      update(Isa::scalar, kHalves, arrays);
      const std::vector<uint8_t> expected = of_v ? v : m;
      for (const Isa isa : runnable_isas()) {
        std::fill(m.begin(), m.end(), uint8_t{0});
        std::fill(v.begin(), v.end(), uint8_t{0});
        m_scales[0] = v_scales[0] = 0;
        update(isa, kHalves, arrays);
        ASSERT_EQ(of_v ? v : m, expected) << name_of(isa) << ", from step " << begin << (of_v ? " of v" : " of m");
      }
    }
}

TEST(AdamW, AnySplitAtBlocksGivesTheSameBitsInEveryFormat) {
  for (const Dtype weights : {Dtype::f32, Dtype::bf16, Dtype::f16})
    for (const MomentFormat moments : {MomentFormat::f32, MomentFormat::bf16, MomentFormat::int8}) {
      constexpr int64_t kCount = 5000;
      ArraysOfAllKinds whole(kCount), parts = whole;
      update(best_isa(), kSettings, whole.arrays(weights, Dtype::f32, moments));
      for (int64_t begin = 0, blocks = 1; begin < kCount; ++blocks) {
        const int64_t end = std::min(kCount, begin + blocks * kStateBlock);
        update(best_isa(), kSettings, parts.arrays(weights, Dtype::f32, moments, begin, end));
        begin = end;
      }
      EXPECT_TRUE(whole == parts) << name_of(weights) << ", moments " << name_of(moments);
    }
}

// Bit by bit, over every mantissa, for divisors that bias corrections are.
TEST(AdamW, DivisionByTheBiasCorrectionIsExact) {
  constexpr size_t kCount = 1 << 16;
  for (const int64_t step : {1, 2, 3, 10, 1000}) {
    for (uint32_t begin = 0x3f800000u; begin < 0x40000000u; begin += kCount * 16) {
      std::vector<float> p(kCount, 0.0f), g(kCount, 0.0f), m(kCount, 1.0f), v(kCount);
      for (size_t i = 0; i < kCount; ++i) v[i] = std::bit_cast<float>(begin + static_cast<uint32_t>(16 * i));
      std::vector<float> scalar_p = p, scalar_m = m, scalar_v = v;
      AdamWSettings settings = kSettings;
      settings.step = step;
      adamw_f32(best_isa(), settings, p, {.f32 = g, .bf16 = {}}, m, v);
      adamw_f32(Isa::scalar, settings, scalar_p, {.f32 = g, .bf16 = {}}, scalar_m, scalar_v);
      ASSERT_TRUE(same_bits(p, scalar_p)) << "step " << step << ", from " << begin;
    }
  }
}

TEST(AdamW, SplitMasterFollowsTheFp32OneExactly) {
  States s = random_states(5000, 2);
  std::vector<float> m = s.m, v = s.v;
  for (int64_t step = 1; step <= 20; ++step) {
    AdamWSettings settings = kSettings;
    settings.step = step;
    adamw_f32(best_isa(), settings, s.p, {.f32 = s.g, .bf16 = {}}, m, v);
    adamw_split(best_isa(), settings, s.hi, s.lo, {.f32 = s.g, .bf16 = {}}, s.m, s.v);
  }
  std::vector<float> joined;
  for (size_t i = 0; i < s.p.size(); ++i) joined.push_back(join_master(s.hi[i], s.lo[i]));
  EXPECT_TRUE(same_bits(joined, s.p) && same_bits(s.m, m) && same_bits(s.v, v));
}

TEST(AdamW, Bf16GradientsGiveWhatTheirFp32ValuesGive) {
  States a = random_states(1003, 6), b = a;
  for (size_t i = 0; i < b.g.size(); ++i) b.g[i] = bf16_to_float(b.g_bf16[i]);
  adamw_f32(best_isa(), kSettings, a.p, {.f32 = {}, .bf16 = a.g_bf16}, a.m, a.v);
  adamw_f32(best_isa(), kSettings, b.p, {.f32 = b.g, .bf16 = {}}, b.m, b.v);
  EXPECT_TRUE(same_bits(a, b));
}

TEST(AdamW, GradientScaleIsAMultiplicationBeforehand) {
  States a = random_states(1003, 7), b = a;
  AdamWSettings unscaled = kSettings;
  unscaled.gradient_scale = 1;
  for (float& g : b.g) g *= kSettings.gradient_scale;
  adamw_f32(best_isa(), kSettings, a.p, {.f32 = a.g, .bf16 = {}}, a.m, a.v);
  adamw_f32(best_isa(), unscaled, b.p, {.f32 = b.g, .bf16 = {}}, b.m, b.v);
  EXPECT_TRUE(same_bits(a, b));
}

TEST(AdamW, AnySplitOfARangeGivesTheSameBits) {
  const States start = random_states(10'000, 3);
  States whole = start, parts = start;
  adamw_f32(best_isa(), kSettings, whole.p, {.f32 = whole.g, .bf16 = {}}, whole.m, whole.v);
  for (size_t begin = 0; begin < 10'000;) {
    const size_t count = std::min<size_t>(begin % 97 + 1, 10'000 - begin);
    const auto cut = [&](std::vector<float>& x) { return std::span(x).subspan(begin, count); };
    adamw_f32(best_isa(), kSettings, cut(parts.p), {.f32 = cut(parts.g), .bf16 = {}}, cut(parts.m), cut(parts.v));
    begin += count;
  }
  EXPECT_TRUE(same_bits(whole, parts));
}

TEST(AdamW, ElementsPastTheSpanAreNotTouched) {
  for (const Isa isa : runnable_isas()) {
    const States start = random_states(200, 8);
    States s = start;
    const auto cut = [](auto& x) { return std::span(x).first(101); };
    adamw_split(isa, kSettings, cut(s.hi), cut(s.lo), {.f32 = {}, .bf16 = cut(s.g_bf16)}, cut(s.m), cut(s.v));
    for (size_t i = 101; i < 200; ++i) {
      EXPECT_TRUE(s.hi[i] == start.hi[i] && s.lo[i] == start.lo[i] && s.m[i] == start.m[i] && s.v[i] == start.v[i])
          << name_of(isa) << ", element " << i;
    }
  }
}

// The gaps between tensors of a parameter group hold zeros and must go on doing so.
TEST(AdamW, ZeroGapsStayZero) {
  for (const Isa isa : runnable_isas()) {
    std::vector<float> p(64), g(64), m(64), v(64);
    adamw_f32(isa, kSettings, p, {.f32 = g, .bf16 = {}}, m, v);
    const std::vector<float> zeros(64);
    EXPECT_TRUE(p == zeros && m == zeros && v == zeros) << name_of(isa);
  }
}

TEST(AdamWDeathTest, SpansOfDifferentLengthsAbort) {
  States s = random_states(16, 9);
  const std::span<float> short_v = std::span(s.v).first(15);
  EXPECT_DEATH(adamw_f32(Isa::scalar, kSettings, s.p, {.f32 = s.g, .bf16 = {}}, s.m, short_v), "another length");
  EXPECT_DEATH(adamw_f32(Isa::scalar, kSettings, s.p, {.f32 = s.g, .bf16 = s.g_bf16}, s.m, s.v), "one kind");
}

}  // namespace
}  // namespace sluice::optim
