#include "runtime/train/low_bit_reader.h"

#include <algorithm>
#include <numeric>

#include "models/ops/low_bit_kernels.h"
#include "runtime/core/result.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// Rows after which codes, scales and scales of scales all begin anew.
int64_t rows_of_whole_scales(const StoredLowBits& matrix) {
  if (matrix.format.kind == models::LowBit::int8) return 1;
  constexpr int64_t kElements = models::kLowBitBlock * models::kLowBitScaleBlock;
  return kElements / std::gcd(kElements, matrix.columns);
}

// Some rows of a matrix, as a matrix of its own: they begin as rows_of_whole_scales says.
class Rows {
 public:
  Rows(const std::vector<fs::path>& files, const StoredLowBits& matrix, int64_t first, int64_t rows) {
    const bool int8 = matrix.format.kind == models::LowBit::int8;
    const int64_t begin = first * matrix.columns, elements = rows * matrix.columns;
    const int64_t block = begin / models::kLowBitBlock, blocks = models::low_bit_blocks(elements);
    const int64_t each = size_of(matrix.scales.dtype);
    codes_ = int8 ? read_bytes(files, matrix.codes, begin, elements)
                  : read_bytes(files, matrix.codes, begin / 2, (elements + 1) / 2);
    scales_ = int8 ? read_bytes(files, matrix.scales, first * each, rows * each)
                   : read_bytes(files, matrix.scales, block * each, blocks * each);
    if (matrix.format.double_quant) {
      const int64_t nested = (blocks + models::kLowBitScaleBlock - 1) / models::kLowBitScaleBlock;
      nested_ = read_bytes(files, matrix.nested_scales, block / models::kLowBitScaleBlock * 4, nested * 4);
    }
    stored = {matrix.format,        rows,           matrix.columns,
              codes_.data(),        scales_.data(), reinterpret_cast<const float*>(nested_.data()),
              &matrix.nested_offset};
  }
  models::StoredMatrix stored;

 private:
  std::vector<std::byte> codes_, scales_, nested_;
};

}  // namespace

LowBitReader::LowBitReader(models::TensorIndex& index, const std::map<std::string, std::vector<int64_t>>& shapes)
    : files_(index.files) {
  const models::LowBitCheckpoint checkpoint = models::take_low_bit_descriptions(index);
  for (const auto& [name, format] : checkpoint.formats) {
    const auto shape = shapes.find(name);
    if (shape == shapes.end() || shape->second.size() != 2)
      throw SetupError(index.files.at(0).string() + ": tensor '" + name + "' is quantised, and not one of the layers'",
                       "quantise the model again with the default modules");
    StoredLowBits matrix{format, shape->second[0], shape->second[1]};
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
  read_low_bits(files_, matrices_.at(name), piece_elements, visit);
}

void read_low_bits(const std::vector<fs::path>& files, const StoredLowBits& matrix, int64_t piece_elements,
                   const TensorVisit& visit) {
  const int64_t columns = matrix.columns, fit = std::max<int64_t>(piece_elements / columns, 1);
  const int64_t unit = rows_of_whole_scales(matrix), step = std::max(round_down(fit, unit), unit);
  std::vector<float> values(static_cast<size_t>(std::min({fit, step, matrix.rows}) * columns));
  for (int64_t begin = 0; begin < matrix.rows; begin += step) {
    const Rows held(files, matrix, begin, std::min(step, matrix.rows - begin));
    for (int64_t row = 0; row < held.stored.rows; row += fit) {
      const int64_t rows = std::min(fit, held.stored.rows - row);
      models::low_bit_kernels().expand(Dtype::f32, held.stored, {row, rows, 0, columns}, values.data(), columns);
      visit((begin + row) * columns, std::span(values).first(static_cast<size_t>(rows * columns)));
    }
  }
}

}  // namespace sluice::train
