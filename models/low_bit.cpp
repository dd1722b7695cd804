#include "models/low_bit.h"

namespace sluice::models {

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

}  // namespace sluice::models
