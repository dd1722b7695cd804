#include "runtime/train/low_bit_reader.h"

#include <algorithm>

#include "models/ops/low_bit_kernels.h"
#include "runtime/core/result.h"

namespace sluice::train {

LowBitReader::LowBitReader(models::TensorIndex& index, const std::map<std::string, std::vector<int64_t>>& shapes)
    : files_(index.files) {
  const models::LowBitCheckpoint checkpoint = models::take_low_bit_descriptions(index);
  for (const auto& [name, format] : checkpoint.formats) {
    const auto shape = shapes.find(name);
    if (shape == shapes.end())
      throw SetupError(index.files.at(0).string() + ": tensor '" + name + "' is quantised, and not one of the layers'",
                       "quantise the model again with the default modules");
    Matrix matrix{format, shape->second[0], shape->second[1]};
    const std::vector<models::LowBitPiece> pieces = models::low_bit_pieces(name, matrix.rows, matrix.columns, format);
    matrix.codes = index.at(name, pieces[0].shape);
    matrix.scales = index.at(pieces[1].name, pieces[1].shape);
    if (format.double_quant) {
      matrix.nested_scales = index.at(pieces[2].name, pieces[2].shape);
      matrix.nested_offset = checkpoint.nested_offsets.at(name);
    }
    for (const models::LowBitPiece& piece : pieces) index.tensors.erase(piece.name);
    models::TensorLocation plain = matrix.codes;
    plain.dtype = Dtype::f32;
    plain.shape = shape->second;
    plain.bytes = matrix.rows * matrix.columns * 4;
    index.tensors[name] = plain;
    matrices_[name] = std::move(matrix);
  }
}

void LowBitReader::read(const std::string& name, int64_t piece_elements, const TensorVisit& visit) const {
  const Matrix& matrix = matrices_.at(name);
  const std::vector<std::byte> codes = read_bytes(files_, matrix.codes), scales = read_bytes(files_, matrix.scales);
  std::vector<std::byte> nested;
  if (matrix.format.double_quant) nested = read_bytes(files_, matrix.nested_scales);
  const models::StoredMatrix stored{matrix.format,        matrix.rows,   matrix.columns,
                                    codes.data(),         scales.data(), reinterpret_cast<const float*>(nested.data()),
                                    &matrix.nested_offset};
  const int64_t step = std::max<int64_t>(piece_elements / matrix.columns, 1);
  std::vector<float> values(static_cast<size_t>(std::min(step, matrix.rows) * matrix.columns));
  for (int64_t row = 0; row < matrix.rows; row += step) {
    const int64_t rows = std::min(step, matrix.rows - row);
    models::low_bit_kernels().expand(Dtype::f32, stored, {row, rows, 0, matrix.columns}, values.data(), matrix.columns);
    visit(row * matrix.columns, std::span(values).first(static_cast<size_t>(rows * matrix.columns)));
  }
}

}  // namespace sluice::train
