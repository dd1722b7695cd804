// The kernels that each instruction set provides, and the constants of one step rounded once to fp32.
#pragma once

#include <cstdint>

#include "runtime/core/dtype.h"

namespace sluice::optim {

struct AdamWConstants {
  float gradient_scale, decay, one_minus_beta1, beta2, one_minus_beta2, sqrt_correction2, epsilon, negative_step_size;
};

struct AdamWTable {
  void (*f32_f32)(const AdamWConstants&, float* p, const float* g, float* m, float* v, int64_t count);
  void (*f32_bf16)(const AdamWConstants&, float* p, const uint16_t* g, float* m, float* v, int64_t count);
  void (*split_f32)(const AdamWConstants&, uint16_t* hi, int16_t* lo, const float* g, float* m, float* v, int64_t count);
  void (*split_bf16)(const AdamWConstants&, uint16_t* hi, int16_t* lo, const uint16_t* g, float* m, float* v, int64_t count);
  double (*squares_f32)(const float* g, int64_t count);
  double (*squares_bf16)(const uint16_t* g, int64_t count);
};

}  // namespace sluice::optim
