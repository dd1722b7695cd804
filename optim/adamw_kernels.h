// What each instruction set offers, and the constants of one step rounded once to fp32.
#pragma once

#include <cstdint>

#include "optim/adamw.h"
#include "optim/rounding_draws.h"

namespace sluice::optim {

struct AdamWConstants {
  float gradient_scale;
  float decay;              // 1 - lr*wd
  float lerp_weight;        // of (g - m), added to m or to g: see lerp_onto_gradient
  bool lerp_onto_gradient;  // torch's lerp starts from the end that is nearer: from g when 1 - b1 >= 1/2
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float sqrt_correction2;  // sqrt(1 - b2^step)
  float epsilon;
  float negative_step_size;  // -lr / (1 - b1^step)
  float negative_learning_rate;
  RoundingKey rounding;
};

// Rounded as ATen takes a Python number into an fp32 kernel: computed in double, then once.
AdamWConstants constants_of(const AdamWSettings& settings, int group);

// Indexed by what an array's elements are: f32, bf16, f16; moments f32, bf16, int8.
inline constexpr int kElementKinds = 3;
constexpr int element_kind(Dtype dtype) { return dtype == Dtype::f32 ? 0 : dtype == Dtype::bf16 ? 1 : 2; }

struct AdamWKernels {
  using Update = void (*)(const AdamWConstants& constants, const AdamWArrays& arrays);
  using Updates = Update[kElementKinds][kElementKinds][kElementKinds];  // [weights][gradients][moments]
  Updates adamw, lion;
  double (*squares[kElementKinds])(const void* gradients, int64_t count);
};

}  // namespace sluice::optim
