#include "models/ops/gemm.h"

#include <ATen/ATen.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <array>

#include "models/ops/scalar_type.h"

namespace sluice::models {
namespace {

at::Tensor view(Dtype dtype, const Matrix& m) {
  return at::from_blob(const_cast<void*>(m.data), {m.rows, m.columns}, {m.stride == 0 ? m.columns : m.stride, 1},
                       at::TensorOptions().dtype(scalar_type(dtype)));
}

// Whether oneDNN multiplies halves here (AVX512-FP16, AMX-FP16): as fast as fp32, sums in fp32. Its block kernels know.
bool multiplies_halves() {
  static const bool works = [] {
    constexpr int64_t kSide = 16;
    alignas(64) std::array<at::Half, kSide * kSide> a{}, b{};
    alignas(64) std::array<float, kSide * kSide> c{};
    try {
      at::native::cpublas::brgemm(kSide, kSide, kSide, kSide, kSide, kSide, false, a.data(), b.data(), c.data(), true);
      at::native::cpublas::brgemm_release();
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }();
  return works;
}

// Elsewhere LibTorch has loops of its own, 5 to 100 times slower than fp32 (measured with AVX-512): there halves are
// widened, some columns of the result at a time.
void widened_product(const at::Tensor& a, const at::Tensor& b, at::Tensor& y, Into into) {
  constexpr int64_t kPieceElements = 4 << 20, kColumnsLeast = 64;
  const at::Tensor first = a.to(at::kFloat);
  const int64_t step = std::max(kColumnsLeast, kPieceElements / std::max<int64_t>(1, b.size(0)));
  for (int64_t column = 0; column < b.size(1); column += step) {
    const int64_t columns = std::min(step, b.size(1) - column);
    const at::Tensor second = b.narrow(1, column, columns).to(at::kFloat);
    at::Tensor part = y.narrow(1, column, columns);
    part.copy_(into == Into::overwrite ? at::mm(first, second) : at::addmm(part.to(at::kFloat), first, second));
  }
}

void product(Dtype dtype, const at::Tensor& a, const at::Tensor& b, const Target& y) {
  at::Tensor out = view(dtype, {y.data, a.size(0), b.size(1), y.stride});
  if (dtype == Dtype::f16 && !multiplies_halves()) return widened_product(a, b, out, y.into);
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
