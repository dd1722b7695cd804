#include "models/low_bit.h"

#include <algorithm>
#include <cmath>

#include "runtime/core/check.h"

namespace sluice::models {
namespace {

// torch.linspace's arithmetic: each point from the nearer end, rounded once.
std::vector<float> fractions(int points) {
  const float begin = 0.1f, end = 1.0f, step = (end - begin) / static_cast<float>(points - 1);
  std::vector<float> values;
  for (int i = 0; i < points; ++i) {
    const bool first_half = i < points / 2;
    const double from_end = static_cast<double>(step) * (first_half ? i : points - 1 - i);
    values.push_back(
        static_cast<float>(first_half ? static_cast<double>(begin) + from_end : static_cast<double>(end) - from_end));
  }
  return values;
}

// One sign, seven decades; the k-th has 2^k means of neighbouring fractions.
std::array<float, 256> make_dynamic_values() {
  std::vector<float> all = {0.0f, 1.0f};
  for (int decade = 0; decade < 7; ++decade) {
    const auto scale = static_cast<float>(std::pow(10.0, decade - 6));
    const std::vector<float> points = fractions((1 << decade) + 1);
    for (size_t i = 0; i + 1 < points.size(); ++i) {
      const float mean = (points[i] + points[i + 1]) / 2.0f;
      all.push_back(scale * mean);
      all.push_back(-scale * mean);
    }
  }
  SLUICE_CHECK(all.size() == 256, "a byte's worth of values");
  std::sort(all.begin(), all.end());
  std::array<float, 256> values{};
  std::copy(all.begin(), all.end(), values.begin());
  return values;
}

}  // namespace

std::string_view name_of(LowBit kind) {
  switch (kind) {
    case LowBit::nf4:
      return "nf4";
    case LowBit::fp4:
      return "fp4";
    case LowBit::int8:
      return "int8";
  }
  return "?";
}

std::vector<LowBitPiece> low_bit_pieces(const std::string& matrix, int64_t rows, int64_t columns, LowBitFormat format) {
  const int64_t elements = rows * columns, blocks = low_bit_blocks(elements);
  if (format.kind == LowBit::int8) {
    const std::string module = matrix.substr(0, matrix.rfind('.'));
    return {{matrix, Dtype::i8, {rows, columns}}, {module + ".SCB", Dtype::f32, {rows}}};
  }
  std::vector<LowBitPiece> pieces = {{matrix, Dtype::u8, {(elements + 1) / 2, 1}},
                                     {matrix + ".absmax", format.double_quant ? Dtype::u8 : Dtype::f32, {blocks}}};
  if (format.double_quant) {
    pieces.push_back({matrix + ".nested_absmax", Dtype::f32, {(blocks + kLowBitScaleBlock - 1) / kLowBitScaleBlock}});
    pieces.push_back({matrix + ".nested_offset", Dtype::f32, {1}});
  }
  return pieces;
}

const std::array<float, 16>& low_bit_values(LowBit kind) {
  // Quantiles of a normal distribution (QLoRA, appendix E), and four-bit floats with bitsandbytes' subnormals; both as
  // in its get_4bit_type.
  static const std::array<float, 16> nf4 = {-1.0f,
                                            -0.6961928009986877f,
                                            -0.5250730514526367f,
                                            -0.39491748809814453f,
                                            -0.28444138169288635f,
                                            -0.18477343022823334f,
                                            -0.09105003625154495f,
                                            0.0f,
                                            0.07958029955625534f,
                                            0.16093020141124725f,
                                            0.24611230194568634f,
                                            0.33791524171829224f,
                                            0.44070982933044434f,
                                            0.5626170039176941f,
                                            0.7229568362236023f,
                                            1.0f};
  static const std::array<float, 16> fp4 = {0.0f / 12.0f,  0.0625f / 12.0f,  8.0f / 12.0f,  12.0f / 12.0f,
                                            4.0f / 12.0f,  6.0f / 12.0f,     2.0f / 12.0f,  3.0f / 12.0f,
                                            0.0f / 12.0f,  -0.0625f / 12.0f, -8.0f / 12.0f, -12.0f / 12.0f,
                                            -4.0f / 12.0f, -6.0f / 12.0f,    -2.0f / 12.0f, -3.0f / 12.0f};
  return kind == LowBit::fp4 ? fp4 : nf4;
}

const std::array<float, 256>& dynamic_values() {
  static const std::array<float, 256> values = make_dynamic_values();
  return values;
}

}  // namespace sluice::models
