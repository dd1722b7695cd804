#include <gtest/gtest.h>

#include <random>

#include "optim/adamw.h"
#include "runtime/core/half.h"
#include "tests/unit/optim/random_states.h"

namespace sluice::optim {
namespace {

std::vector<float> random_gradients(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> g(count);
  for (float& x : g) x = normal(random);
  return g;
}

std::vector<uint16_t> rounded(const std::vector<float>& g) {
  std::vector<uint16_t> bits;
  for (const float x : g) bits.push_back(float_to_bf16(x));
  return bits;
}

TEST(SquaredNorm, EveryInstructionSetGivesTheScalarBits) {
  for (const size_t count : {1, 15, 16, 17, 1003, 3 * 65536 + 1234}) {
    const std::vector<float> g = random_gradients(count, count);
    const std::vector<uint16_t> g_bf16 = rounded(g);
    std::vector<uint16_t> g_f16;
    for (const float x : g) g_f16.push_back(float_to_f16(x));
    for (const Isa isa : runnable_isas()) {
      EXPECT_EQ(squared_norm(Isa::scalar, {.f32 = g, .bf16 = {}}), squared_norm(isa, {.f32 = g, .bf16 = {}}))
          << name_of(isa) << ", " << count;
      EXPECT_EQ(squared_norm(Isa::scalar, {.f32 = {}, .bf16 = g_bf16}), squared_norm(isa, {.f32 = {}, .bf16 = g_bf16}))
          << name_of(isa) << ", " << count;
      EXPECT_EQ(squared_norm(Isa::scalar, {{}, {}, g_f16}), squared_norm(isa, {{}, {}, g_f16}))
          << name_of(isa) << ", " << count;
    }
  }
}

TEST(SquaredNorm, EqualsTheInOrderSumOfItsRuns) {
  const std::vector<float> g = random_gradients(3 * kNormRunElements + 1234, 5);
  const std::span<const float> all(g);
  double sum = 0;
  for (size_t begin = 0; begin < all.size(); begin += kNormRunElements) {
    const size_t count = std::min<size_t>(kNormRunElements, all.size() - begin);
    sum += squared_norm(best_isa(), {.f32 = all.subspan(begin, count), .bf16 = {}});
  }
  EXPECT_EQ(squared_norm(best_isa(), {.f32 = all, .bf16 = {}}), sum);
}

TEST(SquaredNorm, IsTheSumOfSquares) {
  const std::vector<float> g = random_gradients(kNormRunElements + 77, 6);
  const std::vector<uint16_t> g_bf16 = rounded(g);
  long double exact = 0, exact_bf16 = 0;
  for (size_t i = 0; i < g.size(); ++i) {
    exact += static_cast<long double>(g[i]) * static_cast<long double>(g[i]);
    const long double x = bf16_to_float(g_bf16[i]);
    exact_bf16 += x * x;
  }
  const auto near = [](double sum, long double truth) {
    return std::abs(sum / static_cast<double>(truth) - 1) < 1e-13;
  };
  EXPECT_TRUE(near(squared_norm(best_isa(), {.f32 = g, .bf16 = {}}), exact));
  EXPECT_TRUE(near(squared_norm(best_isa(), {.f32 = {}, .bf16 = g_bf16}), exact_bf16));
  EXPECT_EQ(squared_norm(best_isa(), {}), 0);
}

}  // namespace
}  // namespace sluice::optim
