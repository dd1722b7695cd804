#include "models/ops/gradient_writer.h"

#include <algorithm>
#include <cstring>

namespace sluice::models {
namespace {

void zero_gaps(const ParameterGroup& group, std::byte* gradient, int64_t each) {
  int64_t end = 0;
  const auto clear = [&](int64_t from, int64_t to) {
    if (to > from) std::memset(gradient + from * each, 0, static_cast<size_t>((to - from) * each));
  };
  for (const ParameterTensor& tensor : group.tensors) {
    clear(end, tensor.offset);
    end = tensor.offset + tensor.elements;
  }
  clear(end, group.elements);
}

}  // namespace

GradientWriter::GradientWriter(const ParameterGroup& group, void* gradient, Dtype gradient_dtype, Dtype compute_dtype,
                               Store store, void* temporary)
    : gradient_(gradient),
      gradient_dtype_(gradient_dtype),
      compute_dtype_(compute_dtype),
      store_(store),
      temporary_(temporary) {
  if (gradient != nullptr && store == Store::overwrite)
    zero_gaps(group, static_cast<std::byte*>(gradient), size_of(gradient_dtype));
}

void* GradientWriter::at(int64_t offset) const {
  return static_cast<std::byte*>(gradient_) + offset * size_of(gradient_dtype_);
}

void GradientWriter::product(Matrix a, Matrix b, int64_t offset) {
  if (!wanted()) return;
  const bool direct = store_ == Store::overwrite && gradient_dtype_ == compute_dtype_;
  multiply_transposed_by(compute_dtype_, a, b, {direct ? at(offset) : temporary_});
  if (!direct)
    kernels(compute_dtype_).store_gradient(temporary_, at(offset), gradient_dtype_, store_, a.columns * b.columns);
}

void GradientWriter::runs(const float* runs, int64_t count, int64_t width, int64_t offset) {
  if (wanted()) store_runs(runs, count, width, at(offset), gradient_dtype_, store_);
}

int64_t largest_tensor(const ParameterGroup& group) {
  int64_t most = 0;
  for (const ParameterTensor& tensor : group.tensors) most = std::max(most, tensor.elements);
  return most;
}

}  // namespace sluice::models
