// What each instruction set offers, and the constants of one step rounded once to fp32.
#pragma once

#include <cstdint>

namespace sluice::optim {

struct AdamWConstants {
  float gradient_scale;
  float decay;              // 1 - lr*wd
  float lerp_weight;        // of (g - m), added to m or to g: see lerp_onto_gradient
  bool lerp_onto_gradient;  // torch's lerp starts from the end that is nearer: from g when 1 - b1 >= 1/2
  float beta2;
  float one_minus_beta2;
  float sqrt_correction2;  // sqrt(1 - b2^step)
  float epsilon;
  float negative_step_size;  // -lr / (1 - b1^step)
};

struct AdamWSettings;
// Rounded as ATen takes a Python number into an fp32 kernel: computed in double, then once.
AdamWConstants constants_of(const AdamWSettings& settings);

// Every array has `count` elements; no two overlap.
struct AdamWKernels {
  void (*f32_f32)(const AdamWConstants& constants, float* p, const float* g, float* m, float* v, int64_t count);
  void (*f32_bf16)(const AdamWConstants& constants, float* p, const uint16_t* g, float* m, float* v, int64_t count);
  void (*split_f32)(const AdamWConstants& constants, uint16_t* hi, int16_t* lo, const float* g, float* m, float* v,
                    int64_t count);
  void (*split_bf16)(const AdamWConstants& constants, uint16_t* hi, int16_t* lo, const uint16_t* g, float* m, float* v,
                     int64_t count);
  double (*squares_f32)(const float* g, int64_t count);
  double (*squares_bf16)(const uint16_t* g, int64_t count);
};

}  // namespace sluice::optim
