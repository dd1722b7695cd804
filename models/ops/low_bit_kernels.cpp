#include "models/ops/low_bit_kernels.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace sluice::models {

extern const LowBitKernels low_bit_v4;
extern const LowBitKernels low_bit_v3;
extern const LowBitKernels low_bit_v1;

namespace {

// bitsandbytes' CPU backend finds the nearest of the 256 values by a table over 65,536 steps of [-1, 1].
class DynamicCodes {
 public:
  DynamicCodes() : codes_(kSteps) {
    const std::array<float, 256>& values = dynamic_values();
    for (size_t step = 0; step < kSteps; ++step) {
      const double value = -1.0 + 2.0 * static_cast<double>(step) / (kSteps - 1);
      const auto right = std::clamp(std::lower_bound(values.begin(), values.end(), static_cast<float>(value)),
                                    values.begin() + 1, values.end() - 1);
      const bool is_right = static_cast<double>(*right) - value < value - static_cast<double>(*(right - 1));
      codes_[step] = static_cast<uint8_t>(right - values.begin() - (is_right ? 0 : 1));
    }
  }
  uint8_t operator()(float normed) const {
    return codes_[static_cast<size_t>((std::clamp(normed, -1.0f, 1.0f) + 1.0f) * 32767.5f + 0.5f)];
  }

 private:
  static constexpr size_t kSteps = 65536;
  std::vector<uint8_t> codes_;
};

}  // namespace

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
  static const DynamicCodes code_of;
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
      codes[static_cast<size_t>(begin) + i] = most > 0 ? code_of((block[i] - mean) * factor) : uint8_t{0};
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
