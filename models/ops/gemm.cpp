#include "models/ops/gemm.h"

#include <ATen/ATen.h>

namespace sluice::models {
namespace {

at::Tensor view(Dtype dtype, const Matrix& m) {
  return at::from_blob(const_cast<void*>(m.data), {m.rows, m.columns}, {m.stride == 0 ? m.columns : m.stride, 1},
                       at::TensorOptions().dtype(dtype == Dtype::f32 ? at::kFloat : at::kBFloat16));
}

}  // namespace

void multiply_by_transposed(Dtype dtype, Matrix x, Matrix w, void* y) {
  at::Tensor out = view(dtype, {y, x.rows, w.rows});
  at::mm_out(out, view(dtype, x), view(dtype, w).t());
}

void multiply(Dtype dtype, Matrix x, Matrix w, void* y, Into into) {
  at::Tensor out = view(dtype, {y, x.rows, w.columns});
  if (into == Into::overwrite) {
    at::mm_out(out, view(dtype, x), view(dtype, w));
  } else {
    at::addmm_out(out, out, view(dtype, x), view(dtype, w));
  }
}

void multiply_transposed_by(Dtype dtype, Matrix a, Matrix b, void* y) {
  at::Tensor out = view(dtype, {y, a.columns, b.columns});
  at::mm_out(out, view(dtype, a).t(), view(dtype, b));
}

}  // namespace sluice::models
