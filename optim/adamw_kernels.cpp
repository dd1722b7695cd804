// Compiled once per instruction set; SLUICE_ADAMW_KERNELS names this copy's table.
//
// Every copy gives the same bits because the source fixes each rounding: nothing is contracted (-ffp-contract=off) or
// reassociated, divisions and square roots are IEEE's, and the one fused multiply-add is written out. It is there
// because torch's lerp has it (ATen/native/cpu/LerpKernel.cpp): without it m is off by many ulp where m and g cancel.
#include "optim/adamw_kernels.h"

#include <cmath>

#include "runtime/core/dtype.h"

namespace sluice::optim {
namespace {

inline float as_float(float g) { return g; }
inline float as_float(uint16_t g) { return bf16_to_float(g); }

// The new parameter, given its gradient; m and v are updated. torch/optim/adam.py, _single_tensor_adam: mul_, lerp_,
// mul_ and addcmul_, sqrt, div, add_, addcdiv_, in that order and with ATen's order inside each.
inline float step(const AdamWConstants& c, float p, float gradient, float& m, float& v) {
  const float g = gradient * c.gradient_scale;
  m = std::fma(c.lerp_weight, g - m, c.lerp_onto_gradient ? g : m);
  v = v * c.beta2 + c.one_minus_beta2 * g * g;
  const float denominator = std::sqrt(v) / c.sqrt_correction2 + c.epsilon;
  return p * c.decay + c.negative_step_size * m / denominator;
}

// Blocks of whole cache lines, each asking for the lines that a later block will read: the hardware's prefetcher stops
// at every 4 KiB page, and four or five streams cross one every thousand elements each.
constexpr int64_t kBlockElements = 64;
constexpr int64_t kAheadElements = 512;

template <class T>
inline void prefetch(const T* block) {
  for (int64_t i = 0; i < kBlockElements; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(block + i);
}

// `omp simd`: the arrays do not overlap, so no test for it at run time.
template <class G>
inline void update(const AdamWConstants& c, float* p, const G* g, float* m, float* v, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) p[i] = step(c, p[i], as_float(g[i]), m[i], v[i]);
}

template <class G>
inline void update(const AdamWConstants& c, uint16_t* hi, int16_t* lo, const G* g, float* m, float* v, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const SplitMaster next = split_master(step(c, join_master(hi[i], lo[i]), as_float(g[i]), m[i], v[i]));
    hi[i] = next.hi;
    lo[i] = next.lo;
  }
}

template <class... Streams>
void update_in_blocks(const AdamWConstants& constants, int64_t count, Streams*... streams) {
  const AdamWConstants c = constants;
  int64_t i = 0;
  for (; i + kBlockElements <= count; i += kBlockElements) {
    (prefetch(streams + i + kAheadElements), ...);
    update(c, (streams + i)..., kBlockElements);
  }
  update(c, (streams + i)..., count - i);
}

template <class G>
void update_f32(const AdamWConstants& c, float* p, const G* g, float* m, float* v, int64_t count) {
  update_in_blocks(c, count, p, g, m, v);
}

template <class G>
void update_split(const AdamWConstants& c, uint16_t* hi, int16_t* lo, const G* g, float* m, float* v, int64_t count) {
  update_in_blocks(c, count, hi, lo, g, m, v);
}

// Sixteen sums side by side, element i into sum i % 16, then added in order: the same tree for every instruction set.
template <class G>
double sum_of_squares(const G* g, int64_t count) {
  constexpr int kLanes = 16;
  double sums[kLanes] = {};
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(as_float(g[i + lane]));
      sums[lane] += value * value;
    }
  }
  for (int64_t i = whole; i < count; ++i) {
    const auto value = static_cast<double>(as_float(g[i]));
    sums[i - whole] += value * value;
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

extern const AdamWKernels SLUICE_ADAMW_KERNELS;
const AdamWKernels SLUICE_ADAMW_KERNELS = {
    .f32_f32 = update_f32<float>,
    .f32_bf16 = update_f32<uint16_t>,
    .split_f32 = update_split<float>,
    .split_bf16 = update_split<uint16_t>,
    .squares_f32 = sum_of_squares<float>,
    .squares_bf16 = sum_of_squares<uint16_t>,
};

}  // namespace sluice::optim
