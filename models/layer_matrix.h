// What a layer multiplies with in one product: a matrix [out, in], or several stacked by rows (q|k|v, gate|up). In low
// bits it is expanded piece by piece, just before the product that reads it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/ops/ops.h"

namespace sluice::models {

class LayerMatrix {
 public:
  LayerMatrix() = default;
  // Of the group's matrices of those names, [rows, columns] each; plain ones lie without a gap.
  struct Part {
    std::string name;
    int64_t rows = 0, columns = 0;
  };
  LayerMatrix(const ParameterGroup& group, Dtype compute, std::span<const Part> parts, const LowBitFormats& low_bits);

  int64_t out() const { return rows_; }
  int64_t in() const { return columns_; }
  int64_t offset() const { return pieces_[0].codes; }  // of a plain matrix, in elements of the group
  // Elements that are expanded at once; 0: a plain matrix.
  int64_t expanded_elements(const Ops& ops) const;
  // Read and written to expand all of it; 0: a plain matrix.
  double expanded_bytes() const;

  // y [N, out] = x [N, in] w^T. `group`: the group's weights. `expanded`: room for expanded_elements.
  void multiply_by_transposed(const Ops& ops, const std::byte* group, Matrix x, void* y, void* expanded) const;
  // dx [N, in] = dy [N, out] w.
  void multiply(const Ops& ops, const std::byte* group, Matrix dy, void* dx, void* expanded) const;
  // Rows [row, row + rows): where they lie, or expanded. Not more than expanded_elements.
  Matrix rows(const Ops& ops, const std::byte* group, int64_t row, int64_t rows, void* expanded) const;

 private:
  // A matrix of the stack. Offsets in elements of the group; -1: there is none.
  struct Piece {
    bool low = false;
    LowBitFormat format;
    int64_t rows = 0;
    int64_t codes = -1, scales = -1, nested_scales = -1, nested_offset = -1;
  };
  int64_t tile_rows(const Ops& ops) const;
  int64_t tile_columns(const Ops& ops) const;
  StoredMatrix stored(const Piece& piece, const std::byte* group) const;
  // Rows and columns of the stack, to `to` without a gap.
  void expand(const Ops& ops, const std::byte* group, MatrixRange range, std::byte* to) const;

  Dtype dtype_ = Dtype::f32;
  int64_t unit_ = 0;  // bytes of an element of the group
  int64_t rows_ = 0, columns_ = 0;
  bool plain_ = true;
  std::vector<Piece> pieces_;
};

}  // namespace sluice::models
