// Low-rank adapters of one layer: y += scale * B A dropout(x), with magnitudes where it has them, and its backward. An
// empty set does nothing.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "models/decoder.h"
#include "models/decoder_groups.h"
#include "models/ops/gradient_writer.h"
#include "models/ops/magnitude.h"
#include "models/ops/scratch.h"

namespace sluice::models {

struct AdapterScratch {
  void* low = nullptr;           // [N, r]: scale * A dropout(x)
  void* low_gradient = nullptr;  // [N, r]
  void* product = nullptr;       // r * max(in, out): a gradient before it is stored
  // With dropout only, [N, in].
  void *dropped = nullptr, *dropped_gradient = nullptr;
  MagnitudeScratch magnitude;
};

struct AdapterGradients {
  std::optional<GradientWriter> writer;
};

// Columns [column, column + out) of rows that are `stride` elements apart.
struct Columns {
  int64_t stride = 0, column = 0;
};

// A projection and where its output lies.
struct Adapted {
  Projection projection = Projection::q;
  Columns columns;
};

class AdapterSet {
 public:
  AdapterSet() = default;
  // `setup` has an adapter; its ops must outlive this.
  explicit AdapterSet(const LayerSetup& setup);

  bool targets(Projection projection) const { return places_[static_cast<size_t>(projection)].has_value(); }
  const Magnitudes& magnitudes() const { return magnitudes_; }
  double flops_per_token() const;
  // Adds its products: x A^T, whose result backward wants again, and (x A^T) B^T. `slots`: of each projection's output.
  void list(const std::array<int, kProjectionCount>& slots, BlockCost& cost) const;
  int64_t elements() const { return group_.elements; }
  // `expanded`: room for a tile of weights in low bits.
  AdapterScratch cut(Scratch& scratch, Pass pass, int64_t tokens, void* expanded) const;
  AdapterGradients gradients(GradientTarget target, const AdapterScratch& scratch) const;

  // Adds to those columns of y, which are x W^T as yet without a bias. x is [N, in], contiguous.
  void add(const Adapted& adapted, const MicroBatch& batch, const LayerWeights& weights, const void* x, void* y,
           const AdapterScratch& scratch) const;
  // What the base's product and backward() take in place of the family's dy: dy itself, or with magnitudes `scaled`,
  // which may be dy where that is not read again. Stores the magnitudes' gradients.
  const void* enter_backward(std::span<const Adapted> family, const MicroBatch& batch, const LayerWeights& weights,
                             const void* x, const void* dy, void* scaled, AdapterGradients& gradients,
                             const AdapterScratch& scratch) const;
  // Adds to dx [N, in], which is dy W, unless it is null.
  void backward(const Adapted& adapted, const MicroBatch& batch, const LayerWeights& weights, const void* x,
                const void* dy, void* dx, AdapterGradients& gradients, const AdapterScratch& scratch) const;

 private:
  using Place = LowRankPlace;
  const void* dropped(const Place& place, Projection projection, const MicroBatch& batch, const void* x,
                      const AdapterScratch& scratch) const;
  void shrink(const Place& place, const MicroBatch& batch, const std::byte* weights, const void* in, void* low) const;
  bool drops(const MicroBatch& batch) const;
  // With dropout magnitudes make a product of their own of the x that was dropped.
  bool drops_beside_base(const MicroBatch& batch) const { return !magnitudes_.empty() && drops(batch); }
  void add_dropped_gradient(const Adapted& adapted, const MicroBatch& batch, const LayerWeights& weights, Matrix dy,
                            void* dx, const AdapterScratch& scratch) const;
  Matrix columns_of(const Place& place, const void* rows, Columns columns, int64_t tokens) const;
  DropoutKey key(Projection projection, const MicroBatch& batch) const;
  Matrix a(const Place& place, const std::byte* weights) const;
  Matrix b(const Place& place, const std::byte* weights) const;

  const Ops* ops_ = nullptr;
  std::array<std::optional<Place>, kProjectionCount> places_;
  Magnitudes magnitudes_;
  AdapterSpec spec_;
  ParameterGroup group_;
  int64_t layer_ = 0;
  Dtype dtype_ = Dtype::f32;
};

}  // namespace sluice::models
