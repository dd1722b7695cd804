#include "runtime/train/low_bit_writer.h"

#include <algorithm>

#include "models/ops/low_bit_kernels.h"
#include "runtime/core/half.h"
#include "runtime/train/stored_tensors.h"

namespace sluice::train {
namespace {

constexpr int64_t kPieceElements = 4 << 20;  // whole blocks

}  // namespace

void LowBitWriter::write(const LowBitMatrix& matrix, const std::map<std::string, models::TensorLocation>& places,
                         TensorFileWriter& to) {
  const models::TensorLocation& from = stored_.at(matrix.name, {matrix.rows, matrix.columns});
  std::vector<models::TensorLocation> pieces;
  for (const models::LowBitPiece& piece : pieces_of(matrix)) pieces.push_back(places.at(piece.name));
  if (matrix.format.kind == models::LowBit::int8) {
    write_rows(from, matrix.columns, pieces, to);
  } else {
    write_blocks(from, matrix.format, pieces, to);
  }
}

void LowBitWriter::write_blocks(const models::TensorLocation& from, models::LowBitFormat format,
                                const std::vector<models::TensorLocation>& places, TensorFileWriter& to) {
  const int64_t elements = from.bytes / size_of(from.dtype);
  std::vector<float> scales(static_cast<size_t>(models::low_bit_blocks(elements)));
  std::vector<uint8_t> codes(static_cast<size_t>((std::min(elements, kPieceElements) + 1) / 2));
  read_in_pieces(stored_.files, from, kPieceElements, [&](int64_t begin, std::span<float> values) {
    round(values);
    models::low_bit_kernels().quantise(format.kind, values, codes.data(), scales.data() + begin / models::kLowBitBlock);
    to.write(places[0].offset + begin / 2, std::as_bytes(std::span(codes).first((values.size() + 1) / 2)));
    quantised_(static_cast<int64_t>(values.size()) * size_of(from.dtype));
  });
  if (!format.double_quant) return to.write(places[1].offset, std::as_bytes(std::span(scales)));
  std::vector<uint8_t> scale_codes(scales.size());
  std::vector<float> nested((scales.size() + models::kLowBitScaleBlock - 1) / models::kLowBitScaleBlock);
  const float offset = models::quantise_scales(scales, scale_codes.data(), nested.data());
  to.write(places[1].offset, std::as_bytes(std::span(scale_codes)));
  to.write(places[2].offset, std::as_bytes(std::span(nested)));
  to.write(places[3].offset, std::as_bytes(std::span(&offset, 1)));
}

void LowBitWriter::write_rows(const models::TensorLocation& from, int64_t columns,
                              const std::vector<models::TensorLocation>& places, TensorFileWriter& to) {
  const int64_t piece = std::max(columns, kPieceElements / columns * columns);
  std::vector<float> scales;
  std::vector<int8_t> codes;
  read_in_pieces(stored_.files, from, piece, [&](int64_t begin, std::span<float> values) {
    round(values);
    // bitsandbytes quantises fp16 values, whatever the model's type.
    for (float& value : values) value = f16_to_float(float_to_f16(value));
    codes.resize(values.size());
    for (size_t at = 0; at < values.size(); at += static_cast<size_t>(columns))
      scales.push_back(models::quantise_row(values.subspan(at, static_cast<size_t>(columns)), codes.data() + at));
    to.write(places[0].offset + begin, std::as_bytes(std::span(codes)));
    quantised_(static_cast<int64_t>(values.size()) * size_of(from.dtype));
  });
  to.write(places[1].offset, std::as_bytes(std::span(scales)));
}

void LowBitWriter::round(std::span<float> values) const {
  if (rounded_to_ == Dtype::bf16)
    for (float& value : values) value = bf16_to_float(float_to_bf16(value));
  if (rounded_to_ == Dtype::f16)
    for (float& value : values) value = f16_to_float(float_to_f16(value));
}

}  // namespace sluice::train
