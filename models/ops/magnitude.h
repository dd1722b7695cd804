// Magnitudes of a layer's adapted projections (Liu et al. 2024, "DoRA", section 4.1): y = f (W x + s B A x), row by row
// f = m / |W + s B A|. The norm is a constant in backward (section 4.3). An empty set does nothing.
//
// Norms come from the weights in every pass anew, tile by tile: nothing the size of W is held, in low bits or not.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "models/decoder_groups.h"
#include "models/layer_matrix.h"
#include "models/layer_program.h"
#include "models/ops/gradient_writer.h"
#include "models/ops/scratch.h"

namespace sluice::models {

// Where a layer's weights lie.
struct LayerWeights {
  const std::byte* base = nullptr;
  const std::byte* adapter = nullptr;
};

// A low-rank adapter of one projection: element offsets in the adapters' group. A [rank, in], B [out, rank].
struct LowRankPlace {
  int64_t a = 0, b = 0;
  int64_t in = 0, out = 0;
};

struct MagnitudeScratch {
  float* norms = nullptr;    // of all rows of all projections
  float* factors = nullptr;  // f
  void* tile = nullptr;      // of B A, or of columns of an output
  void* expanded = nullptr;  // a tile of W in low bits; not cut here
  // Backward only.
  float* runs = nullptr;   // of a tile's columns
  void* scaled = nullptr;  // [N, out], where dropout is on
};

class Magnitudes {
 public:
  Magnitudes() = default;
  // `places`: by projection, as of the adapters. What setup points to must outlive it.
  Magnitudes(const LayerSetup& setup, std::span<const std::optional<LowRankPlace>> places);

  bool empty() const { return rows_ == 0; }
  // Elements of W that are expanded at once.
  int64_t expanded_elements() const;
  // Factors of all projections: what a cache of generation keeps.
  Bytes factor_bytes() const { return Bytes{rows_ * static_cast<int64_t>(sizeof(float))}; }
  MagnitudeScratch cut(Scratch& scratch, Pass pass, int64_t tokens, bool drops) const;

  // Norms and factors, of all projections: before everything below.
  void prepare(const LayerWeights& weights, const MagnitudeScratch& scratch) const;
  // y = f x, column by column; it may be x.
  void scale(Projection projection, Matrix x, Target y, const MagnitudeScratch& scratch) const;
  // (f + shift) dy, in scratch.scaled.
  Matrix scaled(Projection projection, Matrix dy, float shift, const MagnitudeScratch& scratch) const;
  const LayerMatrix& matrix(Projection projection) const { return part(projection).w; }

  // Of inputs that dropout changed, which the base's product did not see: y += (f - 1) W x + f B low, in columns of y.
  // low [N, rank]: s A x.
  void add(Projection projection, const LayerWeights& weights, Matrix x, const void* low, Target y,
           const MagnitudeScratch& scratch) const;
  // dm = sum over tokens of dy (W x + B low) / norm.
  void gradient(Projection projection, const LayerWeights& weights, Matrix x, const void* low, Matrix dy,
                GradientWriter& writer, const MagnitudeScratch& scratch) const;

  void list_costs(bool drops, const std::array<int, kProjectionCount>& slots, BlockCost& cost) const;

 private:
  struct Part {
    LayerMatrix w;
    LowRankPlace low_rank;
    int64_t magnitude = 0;  // element offset in the adapters' group
    int64_t row = 0;        // of norms and factors
  };
  const Part& part(Projection projection) const { return *parts_[static_cast<size_t>(projection)]; }
  int64_t tile_rows(const Part& part) const;
  Matrix a(const Part& part, const LayerWeights& weights) const;
  Matrix b(const Part& part, const LayerWeights& weights, int64_t row, int64_t rows) const;

  const Ops* ops_ = nullptr;
  Dtype dtype_ = Dtype::f32;
  int64_t rank_ = 0;
  float scale_ = 0;  // s
  std::array<std::optional<Part>, kProjectionCount> parts_;
  int64_t rows_ = 0;
};

}  // namespace sluice::models
