// Low-rank adapters of one layer: y += scale * B A dropout(x), and its backward. An empty set does nothing.
#pragma once

#include <array>
#include <optional>

#include "models/decoder.h"
#include "models/decoder_groups.h"
#include "models/ops/gradient_writer.h"
#include "models/ops/scratch.h"

namespace sluice::models {

struct AdapterScratch {
  void *dropped = nullptr, *low = nullptr, *high = nullptr;              // [N, in], [N, r], [N, out or in]
  void *columns = nullptr, *low_gradient = nullptr, *product = nullptr;  // [N, out], [N, r], r * max(in, out)
};

struct AdapterGradients {
  std::optional<GradientWriter> writer;
};

class AdapterSet {
 public:
  AdapterSet() = default;
  AdapterSet(const DecoderSpec& spec, const AdapterSpec& adapter, const ParameterGroup& group, int64_t layer,
             Dtype dtype);

  bool targets(Projection projection) const { return places_[static_cast<size_t>(projection)].has_value(); }
  double flops_per_token() const;
  AdapterScratch cut(Scratch& scratch, Pass pass, int64_t tokens) const;
  AdapterGradients gradients(void* gradient, Dtype gradient_dtype, bool accumulate,
                             const AdapterScratch& scratch) const;

  // Adds to columns [column, column + out) of y, whose rows are `stride` apart. x is [N, in], contiguous.
  void add(Projection projection, const MicroBatch& batch, const std::byte* weights, const void* x, void* y,
           int64_t stride, int64_t column, const AdapterScratch& scratch) const;
  // dy: those columns of the output's gradient. Adds to dx [N, in] unless it is null.
  void backward(Projection projection, const MicroBatch& batch, const std::byte* weights, const void* x, const void* dy,
                int64_t stride, int64_t column, void* dx, AdapterGradients& gradients,
                const AdapterScratch& scratch) const;

 private:
  struct Place {
    int64_t a = 0, b = 0;  // element offsets in the group
    int64_t in = 0, out = 0;
  };
  const void* dropped(const Place& place, Projection projection, const MicroBatch& batch, const void* x,
                      const AdapterScratch& scratch) const;
  bool drops(const MicroBatch& batch) const;
  DropoutKey key(Projection projection, const MicroBatch& batch) const;

  std::array<std::optional<Place>, kProjectionCount> places_;
  AdapterSpec spec_;
  ParameterGroup group_;
  int64_t layer_ = 0;
  Dtype dtype_ = Dtype::f32;
};

}  // namespace sluice::models
