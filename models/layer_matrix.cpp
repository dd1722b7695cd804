#include "models/layer_matrix.h"

#include <algorithm>

#include "models/decoder_groups.h"

namespace sluice::models {
namespace {

int64_t offset_of(const ParameterGroup& group, const std::string& name) {
  const ParameterTensor* tensor = find_tensor(group, name);
  SLUICE_CHECK(tensor != nullptr, "group " + group.name + " has no " + name);
  return tensor->offset;
}

}  // namespace

LayerMatrix::LayerMatrix(const ParameterGroup& group, Dtype compute, std::span<const Part> parts,
                         const LowBitFormats& low_bits)
    : dtype_(compute), unit_(group.weight_bytes_per_element(compute)), columns_(parts[0].columns) {
  for (const Part& part : parts) {
    SLUICE_CHECK(part.columns == columns_, "matrices of a stack have the same columns");
    Piece piece{.rows = part.rows, .codes = offset_of(group, part.name)};
    if (const auto format = low_bits.find(part.name); format != low_bits.end()) {
      piece.low = true;
      piece.format = format->second;
      const std::vector<LowBitPiece> names = low_bit_pieces(part.name, part.rows, part.columns, piece.format);
      piece.scales = offset_of(group, names[1].name);
      if (names.size() > 2) {
        piece.nested_scales = offset_of(group, names[2].name);
        piece.nested_offset = offset_of(group, names[3].name);
      }
      plain_ = false;
    }
    rows_ += part.rows;
    pieces_.push_back(piece);
  }
}

// Multiples of a block, so that no scale is read twice; columns in blocks only where rows begin with one.
int64_t LayerMatrix::tile_rows(const Ops& ops) const {
  const int64_t fit = ops.expanded_tile().count / (columns_ * size_of(dtype_));
  return std::clamp<int64_t>(round_down(fit, kLowBitBlock), std::min(kLowBitBlock, rows_), rows_);
}
int64_t LayerMatrix::tile_columns(const Ops& ops) const {
  if (columns_ % kLowBitBlock != 0) return columns_;
  const int64_t fit = ops.expanded_tile().count / (rows_ * size_of(dtype_));
  return std::clamp<int64_t>(round_down(fit, kLowBitBlock), kLowBitBlock, columns_);
}

int64_t LayerMatrix::expanded_elements(const Ops& ops) const {
  return plain_ ? 0 : std::max(tile_rows(ops) * columns_, rows_ * tile_columns(ops));
}

double LayerMatrix::expanded_bytes() const {
  double bytes = plain_ ? 0 : static_cast<double>(rows_ * columns_ * size_of(dtype_));
  for (const Piece& piece : pieces_) {
    if (!piece.low) continue;
    const auto elements = static_cast<double>(piece.rows * columns_);
    const double scale_bytes = piece.format.double_quant ? 1.0 : 4.0;
    bytes += piece.format.kind == LowBit::int8 ? elements : elements / 2 + elements / kLowBitBlock * scale_bytes;
  }
  return bytes;
}

void LayerMatrix::multiply_by_transposed(const Ops& ops, const std::byte* group, Matrix x, void* y,
                                         void* expanded) const {
  if (plain_) return ops.multiply_by_transposed(dtype_, x, {group + pieces_[0].codes * unit_, rows_, columns_}, {y});
  for (int64_t row = 0, step = tile_rows(ops); row < rows_; row += step) {
    const int64_t rows = std::min(step, rows_ - row);
    expand(ops, group, {row, rows, 0, columns_}, static_cast<std::byte*>(expanded));
    ops.multiply_by_transposed(dtype_, x, {expanded, rows, columns_},
                               {static_cast<std::byte*>(y) + row * size_of(dtype_), rows_});
  }
}

void LayerMatrix::multiply(const Ops& ops, const std::byte* group, Matrix dy, void* dx, void* expanded) const {
  if (plain_) return ops.multiply(dtype_, dy, {group + pieces_[0].codes * unit_, rows_, columns_}, {dx});
  // By columns: each element of dx is one sum, whatever the tile.
  for (int64_t column = 0, step = tile_columns(ops); column < columns_; column += step) {
    const int64_t columns = std::min(step, columns_ - column);
    expand(ops, group, {0, rows_, column, columns}, static_cast<std::byte*>(expanded));
    ops.multiply(dtype_, dy, {expanded, rows_, columns},
                 {static_cast<std::byte*>(dx) + column * size_of(dtype_), columns_});
  }
}

Matrix LayerMatrix::rows(const Ops& ops, const std::byte* group, int64_t row, int64_t rows, void* expanded) const {
  if (plain_) return {group + pieces_[0].codes * unit_ + row * columns_ * size_of(dtype_), rows, columns_};
  expand(ops, group, {row, rows, 0, columns_}, static_cast<std::byte*>(expanded));
  return {expanded, rows, columns_};
}

StoredMatrix LayerMatrix::stored(const Piece& piece, const std::byte* group) const {
  const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : group + offset * unit_; };
  return {piece.format,
          piece.rows,
          columns_,
          at(piece.codes),
          at(piece.scales),
          reinterpret_cast<const float*>(at(piece.nested_scales)),
          reinterpret_cast<const float*>(at(piece.nested_offset))};
}

void LayerMatrix::expand(const Ops& ops, const std::byte* group, MatrixRange range, std::byte* to) const {
  int64_t begin = 0;  // of the piece in the stack
  for (const Piece& piece : pieces_) {
    const int64_t first = std::max(range.row, begin), last = std::min(range.row + range.rows, begin + piece.rows);
    if (first < last) {
      std::byte* const here = to + (first - range.row) * range.columns * size_of(dtype_);
      const MatrixRange inside{first - begin, last - first, range.column, range.columns};
      if (piece.low) {
        ops.expand(dtype_, stored(piece, group), inside, here, range.columns);
      } else {
        ops.copy_range(dtype_, {group + piece.codes * unit_, piece.rows, columns_}, inside, here);
      }
    }
    begin += piece.rows;
  }
}

}  // namespace sluice::models
