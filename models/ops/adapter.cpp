#include "models/ops/adapter.h"

#include <algorithm>

namespace sluice::models {

AdapterSet::AdapterSet(const Ops& ops, const DecoderSpec& spec, const AdapterSpec& adapter, const ParameterGroup& group,
                       int64_t layer, Dtype dtype)
    : ops_(&ops), spec_(adapter), group_(group), layer_(layer), dtype_(dtype) {
  for (const ProjectionShape& shape : layer_projections(spec)) {
    const ParameterTensor* a = find_tensor(group, adapter_tensor_name(layer, shape, "lora_A.weight"));
    const ParameterTensor* b = find_tensor(group, adapter_tensor_name(layer, shape, "lora_B.weight"));
    if (a != nullptr && b != nullptr)
      places_[static_cast<size_t>(shape.projection)] = Place{a->offset, b->offset, shape.in, shape.out};
  }
}

double AdapterSet::flops_per_token() const {
  double flops = 0;
  for (const auto& place : places_)
    if (place) flops += 2 * static_cast<double>(spec_.rank * (place->in + place->out));
  return flops;
}

void AdapterSet::list(const std::array<int, kProjectionCount>& slots, std::vector<LinearCost>& linears) const {
  for (size_t projection = 0; projection < kProjectionCount; ++projection) {
    const auto& place = places_[projection];
    if (!place) continue;
    linears.push_back({place->in, spec_.rank, true, 1, slots[projection]});
    linears.push_back({spec_.rank, place->out, true, 0, slots[projection]});
  }
}

AdapterScratch AdapterSet::cut(Scratch& scratch, Pass pass, int64_t tokens) const {
  int64_t in = 0, out = 0;
  for (const auto& place : places_) {
    if (!place) continue;
    in = std::max(in, place->in);
    out = std::max(out, place->out);
  }
  AdapterScratch pieces;
  if (in == 0) return pieces;
  pieces.low = scratch.take(dtype_, tokens * spec_.rank);
  if (spec_.dropout > 0) pieces.dropped = scratch.take(dtype_, tokens * in);
  if (pass == Pass::forward) return pieces;
  pieces.low_gradient = scratch.take(dtype_, tokens * spec_.rank);
  pieces.product = scratch.take(dtype_, spec_.rank * std::max(in, out));
  if (spec_.dropout > 0) pieces.dropped_gradient = scratch.take(dtype_, tokens * in);
  return pieces;
}

AdapterGradients AdapterSet::gradients(GradientTarget target, const AdapterScratch& scratch) const {
  return {GradientWriter(*ops_, group_, target, dtype_, scratch.product)};
}

bool AdapterSet::drops(const MicroBatch& batch) const { return spec_.dropout > 0 && batch.step > 0; }

DropoutKey AdapterSet::key(Projection projection, const MicroBatch& batch) const {
  return {batch.seed, batch.step, static_cast<uint64_t>(layer_ * kProjectionCount + static_cast<int64_t>(projection)),
          batch.index};
}

Matrix AdapterSet::a(const Place& place, const std::byte* weights) const {
  return {weights + place.a * size_of(dtype_), spec_.rank, place.in};
}
Matrix AdapterSet::b(const Place& place, const std::byte* weights) const {
  return {weights + place.b * size_of(dtype_), place.out, spec_.rank};
}

const void* AdapterSet::dropped(const Place& place, Projection projection, const MicroBatch& batch, const void* x,
                                const AdapterScratch& scratch) const {
  if (!drops(batch)) return x;
  ops_->kernels(dtype_).dropout(x, scratch.dropped, batch.tokens * place.in, static_cast<float>(spec_.dropout),
                                key(projection, batch));
  return scratch.dropped;
}

// low = scale * in A^T. The scale goes where the fewest elements are.
void AdapterSet::shrink(const Place& place, const MicroBatch& batch, const std::byte* weights, const void* in,
                        void* low) const {
  ops_->multiply_by_transposed(dtype_, {in, batch.tokens, place.in}, a(place, weights), {low});
  ops_->kernels(dtype_).scale(low, static_cast<float>(spec_.scale()), batch.tokens * spec_.rank);
}

void AdapterSet::add(Projection projection, const MicroBatch& batch, const std::byte* weights, const void* x, void* y,
                     Columns columns, const AdapterScratch& scratch) const {
  const auto& place = places_[static_cast<size_t>(projection)];
  if (!place) return;
  shrink(*place, batch, weights, dropped(*place, projection, batch, x, scratch), scratch.low);
  ops_->multiply_by_transposed(
      dtype_, {scratch.low, batch.tokens, spec_.rank}, b(*place, weights),
      {static_cast<std::byte*>(y) + columns.column * size_of(dtype_), columns.stride, Into::accumulate});
}

void AdapterSet::backward(Projection projection, const MicroBatch& batch, const std::byte* weights, const void* x,
                          const void* dy, Columns columns, void* dx, AdapterGradients& gradients,
                          const AdapterScratch& scratch) const {
  const auto& place = places_[static_cast<size_t>(projection)];
  if (!place) return;
  const Kernels& k = ops_->kernels(dtype_);
  const int64_t n = batch.tokens, r = spec_.rank, elements = n * place->in;
  const Matrix dy_columns{static_cast<const std::byte*>(dy) + columns.column * size_of(dtype_), n, place->out,
                          columns.stride};
  const void* in = dropped(*place, projection, batch, x, scratch);
  shrink(*place, batch, weights, in, scratch.low);
  gradients.writer->product(dy_columns, {scratch.low, n, r}, place->b);
  ops_->multiply(dtype_, dy_columns, b(*place, weights), {scratch.low_gradient});
  k.scale(scratch.low_gradient, static_cast<float>(spec_.scale()), n * r);
  gradients.writer->product({scratch.low_gradient, n, r}, {in, n, place->in}, place->a);
  if (dx == nullptr) return;
  const Matrix low_gradient{scratch.low_gradient, n, r};
  if (!drops(batch)) return ops_->multiply(dtype_, low_gradient, a(*place, weights), {dx, 0, Into::accumulate});
  ops_->multiply(dtype_, low_gradient, a(*place, weights), {scratch.dropped_gradient});
  k.dropout(scratch.dropped_gradient, scratch.dropped_gradient, elements, static_cast<float>(spec_.dropout),
            key(projection, batch));
  k.add(dx, scratch.dropped_gradient, dx, elements);
}

}  // namespace sluice::models
