#include "models/ops/gradient_writer.h"

#include <algorithm>

namespace sluice::models {
namespace {

void zero_gaps(const Ops& ops, const ParameterGroup& group, std::byte* gradient, int64_t each) {
  int64_t end = 0;
  const auto clear = [&](int64_t from, int64_t to) {
    if (to > from) ops.clear(gradient + from * each, (to - from) * each);
  };
  for (const ParameterTensor& tensor : group.tensors) {
    clear(end, tensor.offset);
    end = tensor.offset + tensor.elements;
  }
  clear(end, group.elements);
}

}  // namespace

GradientTarget target_of(const BackwardArgs& args, size_t group) {
  return {args.gradients[group], args.gradient_dtype,
          args.accumulate[group] != 0 ? Store::accumulate : Store::overwrite};
}

GradientWriter::GradientWriter(const Ops& ops, const ParameterGroup& group, GradientTarget target, Dtype compute_dtype,
                               void* temporary)
    : ops_(&ops), target_(target), compute_dtype_(compute_dtype), temporary_(temporary) {
  if (wanted() && target.store == Store::overwrite)
    zero_gaps(ops, group, static_cast<std::byte*>(target.data), size_of(target.dtype));
}

GradientTarget GradientWriter::at(int64_t offset) const {
  return {static_cast<std::byte*>(target_.data) + offset * size_of(target_.dtype), target_.dtype, target_.store};
}

void GradientWriter::product(Matrix a, Matrix b, int64_t offset) {
  if (wanted()) ops_->weight_gradient(compute_dtype_, a, b, at(offset), temporary_);
}

void GradientWriter::runs(const float* runs, int64_t count, int64_t width, int64_t offset) {
  if (wanted()) ops_->store_runs(runs, count, width, at(offset));
}

int64_t largest_tensor(const ParameterGroup& group) {
  int64_t most = 0;
  for (const ParameterTensor& tensor : group.tensors) most = std::max(most, tensor.elements);
  return most;
}

}  // namespace sluice::models
