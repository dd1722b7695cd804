// Parameters, gradients and states like those of a training run, in every format that the kernels take.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "optim/adamw.h"

namespace sluice::optim {

struct States {
  std::vector<float> p, g, m, v;
  std::vector<uint16_t> hi, g_bf16;
  std::vector<int16_t> lo;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

inline bool same_bits(const States& a, const States& b) {
  return same_bits(a.p, b.p) && same_bits(a.m, b.m) && same_bits(a.v, b.v) && same_bits(a.hi, b.hi) &&
         same_bits(a.lo, b.lo);
}

// Every tenth gradient or so is a value where arithmetic goes wrong first: zeros, subnormals, huge, infinite.
inline States random_states(size_t count, uint64_t seed) {
  constexpr float kCorners[] = {0.0f, -0.0f, 1e-40f, -1e-45f, 1e-25f, 3e38f, std::numeric_limits<float>::infinity()};
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  States s;
  for (size_t i = 0; i < count; ++i) {
    s.p.push_back(normal(random));
    s.g.push_back(i % 11 == 3 ? kCorners[i % std::size(kCorners)] : normal(random) * 0.01f);
    s.m.push_back(normal(random) * 0.01f);
    s.v.push_back(std::abs(normal(random)) * 1e-4f);
    const SplitMaster split = split_master(s.p.back());
    s.hi.push_back(split.hi);
    s.lo.push_back(split.lo);
    s.g_bf16.push_back(float_to_bf16(s.g.back()));
  }
  return s;
}

// Those that this processor can run, the scalar one first.
inline std::vector<Isa> runnable_isas() {
  std::vector<Isa> isas = {Isa::scalar};
  if (best_isa() != Isa::scalar) isas.push_back(Isa::avx2);
  if (best_isa() == Isa::avx512) isas.push_back(Isa::avx512);
  return isas;
}

}  // namespace sluice::optim
