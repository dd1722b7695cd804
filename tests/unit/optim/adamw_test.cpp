#include "optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace sluice::optim {
namespace {

struct States {
  std::vector<float> p, g, m, v;
  std::vector<uint16_t> hi, g16;
  std::vector<int16_t> lo;
};

States random_states(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  States s;
  for (size_t i = 0; i < count; ++i) {
    s.p.push_back(normal(random));
    s.g.push_back(normal(random) * 0.01f);
    s.m.push_back(normal(random) * 0.01f);
    s.v.push_back(std::abs(normal(random)) * 1e-4f);
    const SplitMaster split = split_master(s.p.back());
    s.hi.push_back(split.hi);
    s.lo.push_back(split.lo);
    s.g16.push_back(float_to_bf16(s.g.back()));
  }
  return s;
}

std::vector<Isa> available() {
  std::vector<Isa> all = {Isa::scalar};
  if (best_isa() != Isa::scalar) all.push_back(Isa::avx2);
  if (best_isa() == Isa::avx512) all.push_back(Isa::avx512);
  return all;
}

constexpr AdamWSettings kSettings{1e-3, 0.9, 0.999, 1e-8, 0.1, 3, 0.7f};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

TEST(AdamW, EveryInstructionSetGivesTheScalarBits) {
  for (const size_t count : {1, 7, 16, 1003, 65536 + 5}) {
    const States start = random_states(count, count);
    for (const Isa isa : available()) {
      States a = start, b = start;
      adamw_f32(Isa::scalar, kSettings, a.p, {a.g, {}}, a.m, a.v);
      adamw_f32(isa, kSettings, b.p, {b.g, {}}, b.m, b.v);
      EXPECT_TRUE(same_bits(a.p, b.p) && same_bits(a.m, b.m) && same_bits(a.v, b.v)) << name_of(isa) << count;
      adamw_split(Isa::scalar, kSettings, a.hi, a.lo, {{}, a.g16}, a.m, a.v);
      adamw_split(isa, kSettings, b.hi, b.lo, {{}, b.g16}, b.m, b.v);
      EXPECT_TRUE(same_bits(a.hi, b.hi) && same_bits(a.lo, b.lo) && same_bits(a.v, b.v)) << name_of(isa) << count;
      EXPECT_EQ(squared_norm(Isa::scalar, {a.g, {}}), squared_norm(isa, {a.g, {}}));
      EXPECT_EQ(squared_norm(Isa::scalar, {{}, a.g16}), squared_norm(isa, {{}, a.g16}));
    }
  }
}

TEST(AdamW, SplitMasterFollowsTheFp32OneExactly) {
  States s = random_states(5000, 2);
  std::vector<float> m = s.m, v = s.v;
  for (int64_t step = 1; step <= 20; ++step) {
    AdamWSettings settings = kSettings;
    settings.step = step;
    adamw_f32(best_isa(), settings, s.p, {s.g, {}}, m, v);
    adamw_split(best_isa(), settings, s.hi, s.lo, {s.g, {}}, s.m, s.v);
  }
  for (size_t i = 0; i < s.p.size(); ++i) ASSERT_EQ(join_master(s.hi[i], s.lo[i]), s.p[i]) << i;
}

TEST(AdamW, AnySplitOfARangeGivesTheSameBits) {
  const States start = random_states(10'000, 3);
  States whole = start, parts = start;
  adamw_f32(best_isa(), kSettings, whole.p, {whole.g, {}}, whole.m, whole.v);
  for (size_t begin = 0; begin < 10'000;) {
    const size_t count = std::min<size_t>(begin % 97 + 1, 10'000 - begin);
    const auto cut = [&](std::vector<float>& x) { return std::span(x).subspan(begin, count); };
    adamw_f32(best_isa(), kSettings, cut(parts.p), {cut(parts.g), {}}, cut(parts.m), cut(parts.v));
    begin += count;
  }
  EXPECT_TRUE(same_bits(whole.p, parts.p) && same_bits(whole.m, parts.m) && same_bits(whole.v, parts.v));
}

TEST(AdamW, ZeroGapsStayZero) {
  States s = random_states(64, 4);
  for (auto* x : {&s.p, &s.g, &s.m, &s.v}) std::fill(x->begin(), x->end(), 0.0f);
  adamw_f32(best_isa(), kSettings, s.p, {s.g, {}}, s.m, s.v);
  EXPECT_EQ(s.p, std::vector<float>(64, 0.0f));
}

TEST(SquaredNorm, EqualsTheInOrderSumOfItsRuns) {
  const States s = random_states(3 * kNormRunElements + 1234, 5);
  const std::span<const float> all(s.g);
  double sum = 0, exact = 0;
  for (size_t begin = 0; begin < all.size(); begin += kNormRunElements)
    sum += squared_norm(best_isa(), {all.subspan(begin, std::min<size_t>(kNormRunElements, all.size() - begin)), {}});
  for (const float g : all) exact += static_cast<double>(g) * static_cast<double>(g);
  EXPECT_EQ(squared_norm(best_isa(), {all, {}}), sum);
  EXPECT_NEAR(sum, exact, 1e-12 * exact);
}

}  // namespace
}  // namespace sluice::optim
