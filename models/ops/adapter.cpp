#include "models/ops/adapter.h"

#include <algorithm>

#include "models/ops/gemm.h"
#include "models/ops/kernels.h"

namespace sluice::models {

AdapterSet::AdapterSet(const DecoderSpec& spec, const AdapterSpec& adapter, const ParameterGroup& group, int64_t layer,
                       Dtype dtype)
    : spec_(adapter), group_(group), layer_(layer), dtype_(dtype) {
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

AdapterScratch AdapterSet::cut(Scratch& scratch, Pass pass, int64_t tokens) const {
  int64_t in = 0, out = 0;
  for (const auto& place : places_) {
    if (!place) continue;
    in = std::max(in, place->in);
    out = std::max(out, place->out);
  }
  AdapterScratch pieces;
  if (in == 0) return pieces;
  if (spec_.dropout > 0) pieces.dropped = scratch.take(dtype_, tokens * in);
  pieces.low = scratch.take(dtype_, tokens * spec_.rank);
  pieces.high = scratch.take(dtype_, tokens * std::max(in, out));
  if (pass == Pass::forward) return pieces;
  pieces.columns = scratch.take(dtype_, tokens * out);
  pieces.low_gradient = scratch.take(dtype_, tokens * spec_.rank);
  pieces.product = scratch.take(dtype_, spec_.rank * std::max(in, out));
  return pieces;
}

AdapterGradients AdapterSet::gradients(void* gradient, Dtype gradient_dtype, bool accumulate,
                                       const AdapterScratch& scratch) const {
  return {GradientWriter(group_, gradient, gradient_dtype, dtype_, accumulate ? Store::accumulate : Store::overwrite,
                         scratch.product)};
}

bool AdapterSet::drops(const MicroBatch& batch) const { return spec_.dropout > 0 && batch.step > 0; }

DropoutKey AdapterSet::key(Projection projection, const MicroBatch& batch) const {
  return {batch.seed, batch.step, static_cast<uint64_t>(layer_ * kProjectionCount + static_cast<int64_t>(projection)),
          batch.index};
}

const void* AdapterSet::dropped(const Place& place, Projection projection, const MicroBatch& batch, const void* x,
                                const AdapterScratch& scratch) const {
  if (!drops(batch)) return x;
  kernels(dtype_).dropout(x, scratch.dropped, batch.tokens * place.in, static_cast<float>(spec_.dropout),
                          key(projection, batch));
  return scratch.dropped;
}

void AdapterSet::add(Projection projection, const MicroBatch& batch, const std::byte* weights, const void* x, void* y,
                     int64_t stride, int64_t column, const AdapterScratch& scratch) const {
  const auto& place = places_[static_cast<size_t>(projection)];
  if (!place) return;
  const int64_t n = batch.tokens, r = spec_.rank, each = size_of(dtype_);
  const void* in = dropped(*place, projection, batch, x, scratch);
  multiply_by_transposed(dtype_, {in, n, place->in}, {weights + place->a * each, r, place->in}, scratch.low);
  multiply_by_transposed(dtype_, {scratch.low, n, r}, {weights + place->b * each, place->out, r}, scratch.high);
  kernels(dtype_).add_scaled(static_cast<std::byte*>(y) + column * each, stride, scratch.high, place->out,
                             static_cast<float>(spec_.scale()), n, place->out);
}

void AdapterSet::backward(Projection projection, const MicroBatch& batch, const std::byte* weights, const void* x,
                          const void* dy, int64_t stride, int64_t column, void* dx, AdapterGradients& gradients,
                          const AdapterScratch& scratch) const {
  const auto& place = places_[static_cast<size_t>(projection)];
  if (!place) return;
  const Kernels& k = kernels(dtype_);
  const int64_t n = batch.tokens, r = spec_.rank, each = size_of(dtype_);
  const auto scale = static_cast<float>(spec_.scale());
  const Matrix a{weights + place->a * each, r, place->in}, b{weights + place->b * each, place->out, r};
  // scale * dy, contiguous.
  std::fill_n(static_cast<std::byte*>(scratch.columns), n * place->out * each, std::byte{0});
  k.add_scaled(scratch.columns, place->out, static_cast<const std::byte*>(dy) + column * each, stride, scale, n,
               place->out);
  const Matrix columns{scratch.columns, n, place->out};
  const void* in = dropped(*place, projection, batch, x, scratch);
  multiply_by_transposed(dtype_, {in, n, place->in}, a, scratch.low);
  gradients.writer->product(columns, {scratch.low, n, r}, place->b);
  multiply(dtype_, columns, b, scratch.low_gradient);
  gradients.writer->product({scratch.low_gradient, n, r}, {in, n, place->in}, place->a);
  if (dx == nullptr) return;
  multiply(dtype_, {scratch.low_gradient, n, r}, a, scratch.high);
  if (drops(batch))
    k.dropout(scratch.high, scratch.high, n * place->in, static_cast<float>(spec_.dropout), key(projection, batch));
  k.add(dx, scratch.high, dx, n * place->in);
}

}  // namespace sluice::models
