#include "models/ops/gemm.h"

#include <ATen/ATen.h>

namespace sluice::models {
namespace {

at::Tensor view(Dtype dtype, const Matrix& m) {
  return at::from_blob(const_cast<void*>(m.data), {m.rows, m.columns}, {m.stride == 0 ? m.columns : m.stride, 1},
                       at::TensorOptions().dtype(dtype == Dtype::f32 ? at::kFloat : at::kBFloat16));
}

void product(Dtype dtype, const at::Tensor& a, const at::Tensor& b, const Target& y) {
  at::Tensor out = view(dtype, {y.data, a.size(0), b.size(1), y.stride});
  if (y.into == Into::overwrite) {
    at::mm_out(out, a, b);
  } else {
    at::addmm_out(out, out, a, b);
  }
}

}  // namespace

void multiply_by_transposed(Dtype dtype, Matrix x, Matrix w, Target y) {
  product(dtype, view(dtype, x), view(dtype, w).t(), y);
}

void multiply(Dtype dtype, Matrix x, Matrix w, Target y) { product(dtype, view(dtype, x), view(dtype, w), y); }

void multiply_transposed_by(Dtype dtype, Matrix a, Matrix b, Target y) {
  product(dtype, view(dtype, a).t(), view(dtype, b), y);
}

}  // namespace sluice::models
