// AdamW (Loshchilov & Hutter 2019, Algorithm 2, decoupled weight decay), as torch.optim.AdamW orders its arithmetic:
//   p *= 1 - lr*wd;  m = lerp(m, g, 1-b1);  v = b2*v + (1-b2)*g*g;  p -= (lr/bc1) * m / (sqrt(v)/sqrt(bc2) + eps)
// with g = gradient * gradient_scale (the clipping factor). Scalar, AVX2 and AVX-512 give the same bits.
// Any split of a range gives the same bits: work is per element.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/core/dtype.h"

namespace sluice::optim {

enum class Isa { scalar, avx2, avx512 };
Isa best_isa();  // of this processor
std::string_view name_of(Isa isa);

struct AdamWSettings {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  int64_t step = 1;          // counts from 1
  float gradient_scale = 1;  // multiplied into each gradient first
};

// Gradients of either dtype: exactly one span is non-empty (f32, or bf16 bits).
struct GradientView {
  std::span<const float> f32;
  std::span<const uint16_t> bf16;
};

// All spans have the same length; m, v fp32. Reads and writes each state once.
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
