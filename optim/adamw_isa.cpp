// Compiled once per instruction set; SLUICE_ADAMW names this copy's table. No operation is contracted or reassociated
// (-ffp-contract=off), so every copy gives the same bits as the scalar one.
#include <bit>
#include <cmath>

#include "optim/adamw_table.h"

namespace sluice::optim {
namespace {

inline float gradient_at(const float* g, int64_t i) { return g[i]; }
inline float gradient_at(const uint16_t* g, int64_t i) { return bf16_to_float(g[i]); }

// One element; the order of operations is torch's (torch/optim/adam.py, _single_tensor_adam).
inline float step(float p, float g, float& m, float& v, const AdamWConstants& c) {
  g *= c.gradient_scale;
  p *= c.decay;
  m = m + c.one_minus_beta1 * (g - m);
  v = v * c.beta2 + c.one_minus_beta2 * g * g;
  const float denominator = std::sqrt(v) / c.sqrt_correction2 + c.epsilon;
  return p + c.negative_step_size * m / denominator;
}

template <class G>
void update_f32(const AdamWConstants& c, float* __restrict p, const G* __restrict g, float* __restrict m,
                float* __restrict v, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) p[i] = step(p[i], gradient_at(g, i), m[i], v[i], c);
}

template <class G>
void update_split(const AdamWConstants& c, uint16_t* __restrict hi, int16_t* __restrict lo, const G* __restrict g,
                  float* __restrict m, float* __restrict v, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const SplitMaster next = split_master(step(join_master(hi[i], lo[i]), gradient_at(g, i), m[i], v[i], c));
    hi[i] = next.hi;
    lo[i] = next.lo;
  }
}

// Sixteen sums side by side, then added in order: the same tree on every instruction set.
template <class G>
double run_of_squares(const G* g, int64_t count) {
  constexpr int kLanes = 16;
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(gradient_at(g, i + lane));
      sums[lane] += value * value;
    }
  for (int lane = 0; i < count; ++i, ++lane) {
    const auto value = static_cast<double>(gradient_at(g, i));
    sums[lane] += value * value;
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

extern const AdamWTable SLUICE_ADAMW;
const AdamWTable SLUICE_ADAMW = {update_f32<float>,     update_f32<uint16_t>,     update_split<float>,
                                 update_split<uint16_t>, run_of_squares<float>, run_of_squares<uint16_t>};

}  // namespace sluice::optim
