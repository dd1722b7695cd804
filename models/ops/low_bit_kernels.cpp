#include "models/ops/low_bit_kernels.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "runtime/core/dynamic_map.h"

namespace sluice::models {

extern const LowBitKernels low_bit_v4;
extern const LowBitKernels low_bit_v3;
extern const LowBitKernels low_bit_v1;

const LowBitKernels& low_bit_kernels(Isa isa) {
  switch (isa) {
    case Isa::v4:
      return low_bit_v4;
    case Isa::v3:
      return low_bit_v3;
    case Isa::v1:
      break;
  }
  return low_bit_v1;
}

float quantise_scales(std::span<const float> scales, uint8_t* codes, float* nested_scales) {
  const DynamicCodes& code_of = dynamic_codes(DynamicMap::with_sign);
  const auto count = static_cast<int64_t>(scales.size());
  const float mean = at::from_blob(const_cast<float*>(scales.data()), {count}, at::kFloat).mean().item<float>();
  for (int64_t begin = 0; begin < count; begin += kLowBitScaleBlock) {
    const std::span<const float> block =
        scales.subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(kLowBitScaleBlock, count - begin)));
    float most = 0;
    for (const float scale : block) most = std::max(most, std::fabs(scale - mean));
    nested_scales[begin / kLowBitScaleBlock] = most;
    const float factor = most > 0 ? 1.0f / most : 0.0f;
    for (size_t i = 0; i < block.size(); ++i)
      codes[static_cast<size_t>(begin) + i] = most > 0 ? code_of[dynamic_step((block[i] - mean) * factor)] : uint8_t{0};
  }
  return mean;
}

float quantise_row(std::span<const float> row, int8_t* codes) {
  float most = 0;
  for (const float value : row) most = std::max(most, std::fabs(value));
  const float factor = most > 0 ? 1.0f / most * 127.0f : 0.0f;  // as torch divides a number by a tensor
  for (size_t i = 0; i < row.size(); ++i) codes[i] = static_cast<int8_t>(std::nearbyint(row[i] * factor));
  return most;
}

}  // namespace sluice::models
