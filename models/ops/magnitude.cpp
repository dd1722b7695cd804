#include "models/ops/magnitude.h"

#include <algorithm>

namespace sluice::models {
namespace {

// Of B A, and of W in low bits: what caches still hold when its norms are taken, and enough rows for the products.
constexpr Bytes kTile = MiB(16);

// Calls body(row, rows) for tiles of `step` rows.
template <class Body>
void for_tiles(int64_t rows, int64_t step, const Body& body) {
  for (int64_t row = 0; row < rows; row += step) body(row, std::min(step, rows - row));
}

std::byte* column_of(void* rows, int64_t column, Dtype dtype) {
  return static_cast<std::byte*>(rows) + column * size_of(dtype);
}

}  // namespace

Magnitudes::Magnitudes(const LayerSetup& setup, std::span<const std::optional<LowRankPlace>> places)
    : ops_(setup.ops),
      dtype_(setup.compute_dtype),
      rank_(setup.adapter->rank),
      scale_(static_cast<float>(setup.adapter->scale())) {
  for (const ProjectionShape& shape : layer_projections(setup.spec)) {
    const auto index = static_cast<size_t>(shape.projection);
    const ParameterTensor* magnitude =
        find_tensor(*setup.layouts[1], adapter_tensor_name(setup.layer, shape, kMagnitude));
    if (magnitude == nullptr) continue;
    const LayerMatrix::Part whole{layer_tensor_name(setup.layer, std::string(shape.module_path) + ".weight"), shape.out,
                                  shape.in};
    parts_[index] = Part{LayerMatrix(*setup.layouts[0], dtype_, {&whole, 1}, setup.low_bits), *places[index],
                         magnitude->offset, rows_};
    rows_ += shape.out;
  }
}

int64_t Magnitudes::expanded_elements() const {
  int64_t most = 0;
  for (const auto& part : parts_)
    if (part) most = std::max(most, part->w.expanded_elements(*ops_));
  return most;
}

int64_t Magnitudes::tile_rows(const Part& part) const {
  const int64_t fit = kTile.count / (part.low_rank.in * size_of(dtype_)), out = part.low_rank.out;
  return std::clamp<int64_t>(round_down(fit, kLowBitBlock), std::min(kLowBitBlock, out), out);
}

Matrix Magnitudes::a(const Part& part, const LayerWeights& weights) const {
  return {weights.adapter + part.low_rank.a * size_of(dtype_), rank_, part.low_rank.in};
}
Matrix Magnitudes::b(const Part& part, const LayerWeights& weights, int64_t row, int64_t rows) const {
  return {weights.adapter + (part.low_rank.b + row * rank_) * size_of(dtype_), rows, rank_};
}

MagnitudeScratch Magnitudes::cut(Scratch& scratch, Pass pass, int64_t tokens, bool drops) const {
  MagnitudeScratch pieces;
  if (empty()) return pieces;
  int64_t rows = 0, of_weights = 0, out = 0;
  for (const auto& part : parts_) {
    if (!part) continue;
    rows = std::max(rows, tile_rows(*part));
    of_weights = std::max(of_weights, tile_rows(*part) * part->low_rank.in);
    out = std::max(out, part->low_rank.out);
  }
  pieces.norms = scratch.take_as<float>(Dtype::f32, rows_);
  pieces.factors = scratch.take_as<float>(Dtype::f32, rows_);
  const bool of_outputs = pass == Pass::backward || drops;
  pieces.tile = scratch.take(dtype_, std::max(of_weights, of_outputs ? tokens * rows : 0));
  if (pass == Pass::forward) return pieces;
  pieces.runs = scratch.take_as<float>(Dtype::f32, runs_of(tokens) * rows);
  if (drops) pieces.scaled = scratch.take(dtype_, tokens * out);
  return pieces;
}

void Magnitudes::prepare(const LayerWeights& weights, const MagnitudeScratch& scratch) const {
  const Kernels* k = empty() ? nullptr : &ops_->kernels(dtype_);
  for (const auto& part : parts_) {
    if (!part) continue;
    const int64_t in = part->low_rank.in, out = part->low_rank.out;
    float* norms = scratch.norms + part->row;
    for_tiles(out, tile_rows(*part), [&](int64_t row, int64_t rows) {
      ops_->multiply(dtype_, b(*part, weights, row, rows), a(*part, weights), {scratch.tile});
      const Matrix w = part->w.rows(*ops_, weights.base, row, rows, scratch.expanded);
      k->row_norms(w.data, scratch.tile, scale_, norms + row, rows, in);
    });
    k->magnitude_factors(weights.adapter + part->magnitude * size_of(dtype_), norms, scratch.factors + part->row, out);
  }
}

void Magnitudes::scale(Projection projection, Matrix x, Target y, const MagnitudeScratch& scratch) const {
  ops_->kernels(dtype_).scale_columns(x.data, x.stride, scratch.factors + part(projection).row, 0, y.data, y.stride,
                                      Store::overwrite, x.rows, x.columns);
}

Matrix Magnitudes::scaled(Projection projection, Matrix dy, float shift, const MagnitudeScratch& scratch) const {
  ops_->kernels(dtype_).scale_columns(dy.data, dy.stride, scratch.factors + part(projection).row, shift, scratch.scaled,
                                      dy.columns, Store::overwrite, dy.rows, dy.columns);
  return {scratch.scaled, dy.rows, dy.columns};
}

void Magnitudes::add(Projection projection, const LayerWeights& weights, Matrix x, const void* low, Target y,
                     const MagnitudeScratch& scratch) const {
  const Part& part = this->part(projection);
  const Kernels& k = ops_->kernels(dtype_);
  const float* factors = scratch.factors + part.row;
  for_tiles(part.low_rank.out, tile_rows(part), [&](int64_t row, int64_t rows) {
    void* const columns = column_of(y.data, row, dtype_);
    ops_->multiply_by_transposed(dtype_, x, part.w.rows(*ops_, weights.base, row, rows, scratch.expanded),
                                 {scratch.tile});
    k.scale_columns(scratch.tile, rows, factors + row, -1, columns, y.stride, Store::accumulate, x.rows, rows);
    ops_->multiply_by_transposed(dtype_, {low, x.rows, rank_}, b(part, weights, row, rows), {scratch.tile});
    k.scale_columns(scratch.tile, rows, factors + row, 0, columns, y.stride, Store::accumulate, x.rows, rows);
  });
}

void Magnitudes::gradient(Projection projection, const LayerWeights& weights, Matrix x, const void* low, Matrix dy,
                          GradientWriter& writer, const MagnitudeScratch& scratch) const {
  const Part& part = this->part(projection);
  for_tiles(part.low_rank.out, tile_rows(part), [&](int64_t row, int64_t rows) {
    ops_->multiply_by_transposed(dtype_, x, part.w.rows(*ops_, weights.base, row, rows, scratch.expanded),
                                 {scratch.tile});
    ops_->multiply_by_transposed(dtype_, {low, x.rows, rank_}, b(part, weights, row, rows),
                                 {scratch.tile, 0, Into::accumulate});
    ops_->kernels(dtype_).product_runs(static_cast<const std::byte*>(dy.data) + row * size_of(dtype_), dy.stride,
                                       scratch.tile, scratch.norms + part.row + row, scratch.runs, x.rows, rows);
    writer.runs(scratch.runs, runs_of(x.rows), rows, part.magnitude + row);
  });
}

// Beside what LoRA costs. Backward wants W x once more for the magnitudes' gradient. With dropout x is not the base's:
// a product of its own, both ways.
void Magnitudes::list_costs(bool drops, const std::array<int, kProjectionCount>& slots, BlockCost& cost) const {
  for (size_t projection = 0; projection < kProjectionCount; ++projection) {
    const auto& part = parts_[projection];
    if (!part) continue;
    const auto [in, out] = std::pair{part->low_rank.in, part->low_rank.out};
    const auto elements = static_cast<double>(in * out), columns = static_cast<double>(out);
    cost.linears.push_back({in, out, false, 1, drops ? slots[projection] : -1, 0, part->w.expanded_bytes(), !drops});
    cost.forward_flops_per_token += drops ? 2 * elements : 0;
    cost.backward_flops_per_token += (drops ? 4 : 2) * elements;
    cost.forward_elements_per_token += (drops ? 6 : 2) * columns;
    cost.backward_elements_per_token += (drops ? 6 : 4) * columns;
    const int64_t rows = tile_rows(*part);
    cost.each_pass.products.push_back({rows, in, rank_, columns / static_cast<double>(rows)});
    cost.each_pass.bytes += 2 * elements * static_cast<double>(size_of(dtype_)) + part->w.expanded_bytes();
  }
}

}  // namespace sluice::models
