// Rounds the settings to the constants of one step and calls the chosen instruction set's kernels.
#include "optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "optim/adamw_kernels.h"
#include "runtime/core/check.h"

namespace sluice::optim {

extern const AdamWKernels adamw_scalar;
extern const AdamWKernels adamw_avx2;
extern const AdamWKernels adamw_avx512;

namespace {

const AdamWKernels& kernels_of(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return adamw_scalar;
    case Isa::avx2:
      return adamw_avx2;
    case Isa::avx512:
      return adamw_avx512;
  }
  return adamw_scalar;
}

void check_lengths(size_t count, const GradientView& g, std::span<const float> m, std::span<const float> v) {
  SLUICE_CHECK(m.size() == count && v.size() == count, "states of another length than the parameters");
  SLUICE_CHECK((g.f32.empty() ? 0 : 1) + (g.bf16.empty() ? 0 : 1) + (g.f16.empty() ? 0 : 1) == (count == 0 ? 0 : 1),
               "exactly one kind of gradient");
  SLUICE_CHECK(g.f32.size() + g.bf16.size() + g.f16.size() == count, "gradients of another length than the parameters");
}

struct Gradients {
  Dtype dtype;
  const void* data;
  int64_t count;
};
Gradients gradients_of(const GradientView& g) {
  if (!g.f32.empty()) return {Dtype::f32, g.f32.data(), static_cast<int64_t>(g.f32.size())};
  if (!g.bf16.empty()) return {Dtype::bf16, g.bf16.data(), static_cast<int64_t>(g.bf16.size())};
  return {Dtype::f16, g.f16.data(), static_cast<int64_t>(g.f16.size())};
}

}  // namespace

AdamWConstants constants_of(const AdamWSettings& s, int group) {
  SLUICE_CHECK(s.step >= 1, "steps count from 1");
  const auto step = static_cast<double>(s.step);
  const double correction1 = 1 - std::pow(s.beta1, step);
  const double correction2 = 1 - std::pow(s.beta2, step);
  const auto one_minus_beta1 = static_cast<float>(1 - s.beta1);
  const bool lerp_onto_gradient = one_minus_beta1 >= 0.5f;
  return {.gradient_scale = s.gradient_scale,
          .decay = static_cast<float>(1 - s.learning_rate * s.weight_decay),
          .lerp_weight = lerp_onto_gradient ? one_minus_beta1 - 1 : one_minus_beta1,
          .lerp_onto_gradient = lerp_onto_gradient,
          .beta1 = static_cast<float>(s.beta1),
          .one_minus_beta1 = one_minus_beta1,
          .beta2 = static_cast<float>(s.beta2),
          .one_minus_beta2 = static_cast<float>(1 - s.beta2),
          .sqrt_correction2 = static_cast<float>(std::sqrt(correction2)),
          .epsilon = static_cast<float>(s.epsilon),
          .negative_step_size = static_cast<float>(-(s.learning_rate / correction1)),
          .negative_learning_rate = static_cast<float>(-s.learning_rate),
          .rounding = rounding_key(s.seed, s.step, group)};
}

// The features that -march=x86-64-v4 and -v3 let the compiler use (psABI levels); the operating system must save the
// registers too, which __builtin_cpu_supports asks.
Isa best_isa() {
  static const Isa best = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi") ||
        !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("f16c")) {
      return Isa::scalar;
    }
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512vbmi")) {
      return Isa::avx2;
    }
    return Isa::avx512;
  }();
  return best;
}

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "?";
}

void update(Isa isa, const AdamWSettings& settings, const AdamWArrays& arrays) {
  SLUICE_CHECK((arrays.master == nullptr) == (arrays.weight_dtype == Dtype::f32), "only fp32 weights are the master");
  const AdamWKernels& kernels = kernels_of(isa);
  const auto& update_of = arrays.rule == UpdateRule::adamw ? kernels.adamw : kernels.lion;
  update_of[element_kind(arrays.weight_dtype)][element_kind(arrays.gradient_dtype)][static_cast<int>(arrays.moments)](
      constants_of(settings, arrays.group), arrays);
}

void adamw_f32(Isa isa, const AdamWSettings& settings, std::span<float> parameters, GradientView gradients,
               std::span<float> m, std::span<float> v) {
  check_lengths(parameters.size(), gradients, m, v);
  const auto [dtype, data, count] = gradients_of(gradients);
  update(isa, settings,
         {.count = count,
          .weight_dtype = Dtype::f32,
          .weights = parameters.data(),
          .gradient_dtype = dtype,
          .gradients = data,
          .m = m.data(),
          .v = v.data()});
}

void adamw_split(Isa isa, const AdamWSettings& settings, std::span<uint16_t> hi, std::span<int16_t> lo,
                 GradientView gradients, std::span<float> m, std::span<float> v) {
  check_lengths(hi.size(), gradients, m, v);
  SLUICE_CHECK(lo.size() == hi.size(), "low halves of another length than the high ones");
  const auto [dtype, data, count] = gradients_of(gradients);
  update(isa, settings,
         {.count = count,
          .weight_dtype = Dtype::bf16,
          .weights = hi.data(),
          .master = lo.data(),
          .gradient_dtype = dtype,
          .gradients = data,
          .m = m.data(),
          .v = v.data()});
}

double squared_norm(Isa isa, GradientView gradients) {
  const auto [dtype, data, count] = gradients_of(gradients);
  double sum = 0;
  for (int64_t begin = 0; begin < count; begin += kNormRunElements)
    sum += kernels_of(isa).squares[element_kind(dtype)](static_cast<const std::byte*>(data) + begin * size_of(dtype),
                                                        std::min(kNormRunElements, count - begin));
  return sum;
}

}  // namespace sluice::optim
