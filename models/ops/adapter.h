// Low-rank adapters of one layer: y += scale * B A dropout(x), and its backward. An empty set does nothing.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "models/decoder.h"
#include "models/decoder_groups.h"
#include "models/ops/gradient_writer.h"
#include "models/ops/scratch.h"

namespace sluice::models {

struct AdapterScratch {
  void* low = nullptr;           // [N, r]: scale * A dropout(x)
  void* low_gradient = nullptr;  // [N, r]
  void* product = nullptr;       // r * max(in, out): a gradient before it is stored
  // With dropout only, [N, in].
  void *dropped = nullptr, *dropped_gradient = nullptr;
};

struct AdapterGradients {
  std::optional<GradientWriter> writer;
};

// Columns [column, column + out) of rows that are `stride` elements apart.
struct Columns {
  int64_t stride = 0, column = 0;
};

class AdapterSet {
 public:
  AdapterSet() = default;
  // `ops` must outlive it.
  AdapterSet(const Ops& ops, const DecoderSpec& spec, const AdapterSpec& adapter, const ParameterGroup& group,
             int64_t layer, Dtype dtype);

  bool targets(Projection projection) const { return places_[static_cast<size_t>(projection)].has_value(); }
  double flops_per_token() const;
  // Adds its products: x A^T, whose result backward wants again, and (x A^T) B^T. `slots`: of each projection's output.
  void list(const std::array<int, kProjectionCount>& slots, std::vector<LinearCost>& linears) const;
  int64_t elements() const { return group_.elements; }
  AdapterScratch cut(Scratch& scratch, Pass pass, int64_t tokens) const;
  AdapterGradients gradients(GradientTarget target, const AdapterScratch& scratch) const;

  // Adds to those columns of y. x is [N, in], contiguous.
  void add(Projection projection, const MicroBatch& batch, const std::byte* weights, const void* x, void* y,
           Columns columns, const AdapterScratch& scratch) const;
  // dy: those columns of the output's gradient. Adds to dx [N, in] unless it is null.
  void backward(Projection projection, const MicroBatch& batch, const std::byte* weights, const void* x, const void* dy,
                Columns columns, void* dx, AdapterGradients& gradients, const AdapterScratch& scratch) const;

 private:
  struct Place {
    int64_t a = 0, b = 0;  // element offsets in the group
    int64_t in = 0, out = 0;
  };
  const void* dropped(const Place& place, Projection projection, const MicroBatch& batch, const void* x,
                      const AdapterScratch& scratch) const;
  void shrink(const Place& place, const MicroBatch& batch, const std::byte* weights, const void* in, void* low) const;
  bool drops(const MicroBatch& batch) const;
  DropoutKey key(Projection projection, const MicroBatch& batch) const;
  Matrix a(const Place& place, const std::byte* weights) const;
  Matrix b(const Place& place, const std::byte* weights) const;

  const Ops* ops_ = nullptr;
  std::array<std::optional<Place>, kProjectionCount> places_;
  AdapterSpec spec_;
  ParameterGroup group_;
  int64_t layer_ = 0;
  Dtype dtype_ = Dtype::f32;
};

}  // namespace sluice::models
