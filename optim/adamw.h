// AdamW (Loshchilov & Hutter 2019, Algorithm 2, decoupled weight decay), as torch.optim.AdamW orders its arithmetic:
//   p *= 1 - lr*wd;  m = lerp(m, g, 1-b1);  v = b2*v + (1-b2)*g*g;  p -= (lr/bc1) * m / (sqrt(v)/sqrt(bc2) + eps)
// with g = gradient * gradient_scale (the clipping factor). Scalar, AVX2 and AVX-512 give the same bits.
// Any split of a range gives the same bits, of int8 moments any split at multiples of kStateBlock.
//
// Moments (core/state_layout.h): fp32 as above. bf16: the same, then rounded up or down with a probability that keeps
// the mean (Gupta et al. 2015, "Deep Learning with Limited Numerical Precision", section 3), by draws of a
// counter-based generator. int8: as bitsandbytes' CPU backend (optimizer_update_8bit_blockwise): m = b1*m + (1-b1)*g,
// and m and v of a block of 256 are stored in the dynamic type over their largest magnitude; p takes them before they
// are.
//
// Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", program 1), as bitsandbytes orders it:
//   p *= 1 - lr*wd;  p -= lr * sign(b1*m + (1-b1)*g);  m = b2*m + (1-b2)*g
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/core/dtype.h"
#include "runtime/core/state_layout.h"

namespace sluice::optim {

enum class Isa { scalar, avx2, avx512 };
Isa best_isa();  // of this processor
std::string_view name_of(Isa isa);

struct AdamWSettings {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  int64_t step = 1;          // counts from 1; Lion asks for neither it nor epsilon
  float gradient_scale = 1;  // multiplied into each gradient first
  uint64_t seed = 0;         // of the draws that bf16 moments are rounded by
};

// Parameters that are updated alike. Arrays of `count` elements, none overlapping another.
struct AdamWArrays {
  int64_t count = 0;
  UpdateRule rule = UpdateRule::adamw;
  Dtype weight_dtype = Dtype::f32;
  void* weights = nullptr;
  void* master = nullptr;  // of bf16 weights int16 low halves, of f16 ones the fp32 master, of f32 ones nothing
  Dtype gradient_dtype = Dtype::f32;
  const void* gradients = nullptr;
  MomentFormat moments = MomentFormat::f32;
  void *m = nullptr, *v = nullptr;                 // Lion has no v
  float *m_scales = nullptr, *v_scales = nullptr;  // of int8 moments, one per begun kStateBlock
  // Which parameters these are, for draws that do not depend on how they are cut.
  int group = 0;
  int64_t first = 0;
};
// By the arrays' rule.
void update(Isa isa, const AdamWSettings& settings, const AdamWArrays& arrays);

// Gradients of one dtype: at most one span is non-empty.
struct GradientView {
  std::span<const float> f32;
  std::span<const uint16_t> bf16;
  std::span<const uint16_t> f16 = {};
};

// The same on spans of one length. m, v fp32.
void adamw_f32(Isa isa, const AdamWSettings& settings, std::span<float> parameters, GradientView gradients,
               std::span<float> m, std::span<float> v);
// The fp32 master is hi (bf16 bits) and lo (core/dtype.h, split_master).
void adamw_split(Isa isa, const AdamWSettings& settings, std::span<uint16_t> hi, std::span<int16_t> lo,
                 GradientView gradients, std::span<float> m, std::span<float> v);

// Sum of squares in double. Deterministic: partial sums over fixed runs of kNormRunElements, added in order, so the
// same bits for any ISA, and sum over a range equals the in-order sum of its runs.
inline constexpr int64_t kNormRunElements = 1 << 16;
double squared_norm(Isa isa, GradientView gradients);

}  // namespace sluice::optim
