#include "optim/adamw.h"

#include <gtest/gtest.h>

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
