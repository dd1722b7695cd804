#include "models/ops/adapter.h"

#include <algorithm>

namespace sluice::models {

AdapterSet::AdapterSet(const LayerSetup& setup)
    : ops_(setup.ops),
      spec_(*setup.adapter),
      group_(*setup.layouts[1]),
      layer_(setup.layer),
      dtype_(setup.compute_dtype) {
  for (const ProjectionShape& shape : layer_projections(setup.spec)) {
    const ParameterTensor* a = find_tensor(group_, adapter_tensor_name(layer_, shape, "lora_A.weight"));
    const ParameterTensor* b = find_tensor(group_, adapter_tensor_name(layer_, shape, "lora_B.weight"));
    if (a != nullptr && b != nullptr)
      places_[static_cast<size_t>(shape.projection)] = Place{a->offset, b->offset, shape.in, shape.out};
  }
  if (spec_.decomposed) magnitudes_ = Magnitudes(setup, places_);
}

double AdapterSet::flops_per_token() const {
  double flops = 0;
  for (const auto& place : places_)
    if (place) flops += 2 * static_cast<double>(spec_.rank * (place->in + place->out));
  return flops;
}

void AdapterSet::list(const std::array<int, kProjectionCount>& slots, BlockCost& cost) const {
  for (size_t projection = 0; projection < kProjectionCount; ++projection) {
    const auto& place = places_[projection];
    if (!place) continue;
    cost.linears.push_back({place->in, spec_.rank, true, 1, slots[projection]});
    cost.linears.push_back({spec_.rank, place->out, true, 0, slots[projection]});
  }
  magnitudes_.list_costs(spec_.dropout > 0, slots, cost);
}

AdapterScratch AdapterSet::cut(Scratch& scratch, Pass pass, int64_t tokens, void* expanded) const {
  int64_t in = 0, out = 0;
  for (const auto& place : places_) {
    if (!place) continue;
    in = std::max(in, place->in);
    out = std::max(out, place->out);
  }
  AdapterScratch pieces;
  if (in == 0) return pieces;
  pieces.magnitude = magnitudes_.cut(scratch, pass, tokens, spec_.dropout > 0);
  pieces.magnitude.expanded = expanded;
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

Matrix AdapterSet::columns_of(const Place& place, const void* rows, Columns columns, int64_t tokens) const {
  return {static_cast<const std::byte*>(rows) + columns.column * size_of(dtype_), tokens, place.out, columns.stride};
}

void AdapterSet::add(const Adapted& adapted, const MicroBatch& batch, const LayerWeights& weights, const void* x,
                     void* y, const AdapterScratch& scratch) const {
  const auto& place = places_[static_cast<size_t>(adapted.projection)];
  if (!place) return;
  const int64_t n = batch.tokens, stride = adapted.columns.stride;
  void* const into = static_cast<std::byte*>(y) + adapted.columns.column * size_of(dtype_);
  const void* in = dropped(*place, adapted.projection, batch, x, scratch);
  shrink(*place, batch, weights.adapter, in, scratch.low);
  if (drops_beside_base(batch))
    return magnitudes_.add(adapted.projection, weights, {in, n, place->in}, scratch.low, {into, stride},
                           scratch.magnitude);
  ops_->multiply_by_transposed(dtype_, {scratch.low, n, spec_.rank}, b(*place, weights.adapter),
                               {into, stride, Into::accumulate});
  if (!magnitudes_.empty())
    magnitudes_.scale(adapted.projection, {into, n, place->out, stride}, {into, stride}, scratch.magnitude);
}

const void* AdapterSet::enter_backward(std::span<const Adapted> family, const MicroBatch& batch,
                                       const LayerWeights& weights, const void* x, const void* dy, void* scaled,
                                       AdapterGradients& gradients, const AdapterScratch& scratch) const {
  if (magnitudes_.empty() || drops(batch)) return dy;
  const void* through = dy;
  for (const auto& [projection, columns] : family) {
    const auto& place = places_[static_cast<size_t>(projection)];
    if (!place) continue;
    SLUICE_CHECK(scaled == dy || family.size() == 1, "what is not scaled would have to be copied");
    const Matrix from = columns_of(*place, dy, columns, batch.tokens);
    shrink(*place, batch, weights.adapter, x, scratch.low);
    magnitudes_.gradient(projection, weights, {x, batch.tokens, place->in}, scratch.low, from, *gradients.writer,
                         scratch.magnitude);
    void* const to = static_cast<std::byte*>(scaled) + columns.column * size_of(dtype_);
    magnitudes_.scale(projection, from, {to, columns.stride}, scratch.magnitude);
    through = scaled;
  }
  return through;
}

void AdapterSet::backward(const Adapted& adapted, const MicroBatch& batch, const LayerWeights& weights, const void* x,
                          const void* dy, void* dx, AdapterGradients& gradients, const AdapterScratch& scratch) const {
  const auto& place = places_[static_cast<size_t>(adapted.projection)];
  if (!place) return;
  const int64_t n = batch.tokens, r = spec_.rank;
  const Matrix whole = columns_of(*place, dy, adapted.columns, n);
  Matrix gradient = whole;
  const Matrix in{dropped(*place, adapted.projection, batch, x, scratch), n, place->in};
  shrink(*place, batch, weights.adapter, in.data, scratch.low);
  if (drops_beside_base(batch)) {
    magnitudes_.gradient(adapted.projection, weights, in, scratch.low, whole, *gradients.writer, scratch.magnitude);
    gradient = magnitudes_.scaled(adapted.projection, whole, 0, scratch.magnitude);
  }
  gradients.writer->product(gradient, {scratch.low, n, r}, place->b);
  ops_->multiply(dtype_, gradient, b(*place, weights.adapter), {scratch.low_gradient});
  ops_->kernels(dtype_).scale(scratch.low_gradient, static_cast<float>(spec_.scale()), n * r);
  gradients.writer->product({scratch.low_gradient, n, r}, in, place->a);
  if (dx == nullptr) return;
  if (drops(batch)) return add_dropped_gradient(adapted, batch, weights, whole, dx, scratch);
  ops_->multiply(dtype_, {scratch.low_gradient, n, r}, a(*place, weights.adapter), {dx, 0, Into::accumulate});
}

void AdapterSet::add_dropped_gradient(const Adapted& adapted, const MicroBatch& batch, const LayerWeights& weights,
                                      Matrix dy, void* dx, const AdapterScratch& scratch) const {
  const Place& place = *places_[static_cast<size_t>(adapted.projection)];
  const Kernels& k = ops_->kernels(dtype_);
  Target into{scratch.dropped_gradient};
  if (drops_beside_base(batch)) {
    const Matrix beside = magnitudes_.scaled(adapted.projection, dy, -1, scratch.magnitude);
    magnitudes_.matrix(adapted.projection).multiply(*ops_, weights.base, beside, into.data, scratch.magnitude.expanded);
    into.into = Into::accumulate;
  }
  ops_->multiply(dtype_, {scratch.low_gradient, dy.rows, spec_.rank}, a(place, weights.adapter), into);
  k.dropout(into.data, into.data, dy.rows * place.in, static_cast<float>(spec_.dropout),
            key(adapted.projection, batch));
  k.add(dx, into.data, dx, dy.rows * place.in);
}

}  // namespace sluice::models
