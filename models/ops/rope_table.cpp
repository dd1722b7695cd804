#include "models/ops/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "runtime/core/half.h"

namespace sluice::models {
namespace {

// Frequencies below the low bound are interpolated, above the high one kept, between them blended
// (Llama 3.1's context extension).
void scale_llama3(const RopeSpec& spec, std::vector<float>& inverse) {
  const double original = static_cast<double>(spec.original_positions_max);
  const double low_wavelength = original / spec.low_freq_factor, high_wavelength = original / spec.high_freq_factor;
  for (float& frequency : inverse) {
    const double wavelength = 2 * std::numbers::pi / static_cast<double>(frequency);
    if (wavelength > low_wavelength) {
      frequency = static_cast<float>(static_cast<double>(frequency) / spec.factor);
    } else if (wavelength >= high_wavelength) {
      const double smooth =
          (original / wavelength - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor);
      frequency = static_cast<float>((1 - smooth) * static_cast<double>(frequency) / spec.factor +
                                     smooth * static_cast<double>(frequency));
    }
  }
}

double yarn_magnitude(double scale, double mscale) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

float yarn_attention_factor(const RopeSpec& spec) {
  if (spec.attention_factor) return static_cast<float>(*spec.attention_factor);
  if (spec.mscale.value_or(0) != 0 && spec.mscale_all_dim.value_or(0) != 0)
    return static_cast<float>(yarn_magnitude(spec.factor, *spec.mscale) /
                              yarn_magnitude(spec.factor, *spec.mscale_all_dim));
  return static_cast<float>(yarn_magnitude(spec.factor, 1));
}

// Peng et al. 2023, "YaRN", section 3.2: a linear ramp between the dimensions that turn beta_fast and beta_slow times.
void scale_yarn(const RopeSpec& spec, int64_t head_dim, std::vector<float>& inverse) {
  const auto dim = static_cast<double>(head_dim);
  const auto correction = [&](double rotations) {
    return dim * std::log(static_cast<double>(spec.original_positions_max) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(spec.theta));
  };
  double low = correction(spec.beta_fast), high = correction(spec.beta_slow);
  if (spec.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inverse.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double frequency = static_cast<double>(inverse[i]);
    inverse[i] = static_cast<float>(frequency / spec.factor * ramp + frequency * (1 - ramp));
  }
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeSpec& spec, int64_t head_dim) {
  RopeFrequencies result;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    result.inverse.push_back(1.0f / std::pow(static_cast<float>(spec.theta), exponent));
  }
  switch (spec.type) {
    case RopeType::standard:
      break;
    case RopeType::linear:
      for (float& frequency : result.inverse) frequency /= static_cast<float>(spec.factor);
      break;
    case RopeType::llama3:
      scale_llama3(spec, result.inverse);
      break;
    case RopeType::yarn:
      scale_yarn(spec, head_dim, result.inverse);
      result.attention_factor = yarn_attention_factor(spec);
      break;
  }
  return result;
}

RopeTable::RopeTable(const RopeSpec& spec, int64_t head_dim, Dtype compute_dtype)
    : frequencies_(rope_frequencies(spec, head_dim)), dtype_(compute_dtype) {}

RopeAngles RopeTable::angles(int64_t positions) {
  const auto round = [&](double value) {
    const auto scaled = static_cast<float>(value) * frequencies_.attention_factor;
    if (dtype_ == Dtype::f16) return f16_to_float(float_to_f16(scaled));
    return dtype_ == Dtype::bf16 ? bf16_to_float(float_to_bf16(scaled)) : scaled;
  };
  for (; positions_ < positions; ++positions_)
    for (const float inverse : frequencies_.inverse) {
      const float angle = static_cast<float>(positions_) * inverse;
      cos_.push_back(round(std::cos(static_cast<double>(angle))));
      sin_.push_back(round(std::sin(static_cast<double>(angle))));
    }
  return {cos_.data(), sin_.data()};
}

}  // namespace sluice::models
