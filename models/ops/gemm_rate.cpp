#include "models/gemm_rate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "models/ops/scalar_type.h"

namespace sluice::models {

double measure_gemm_flops(Dtype dtype, int64_t tokens, int64_t in, int64_t out, double seconds) {
  const auto options = at::TensorOptions().dtype(scalar_type(dtype));
  const at::Tensor x = at::randn({tokens, in}, options), w = at::randn({out, in}, options);
  at::Tensor y = at::empty({tokens, out}, options);
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double best = 0;
  const double flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(in) * static_cast<double>(out);
  do {
    const auto begin = Clock::now();
    at::mm_out(y, x, w.t());
    best = std::max(best, flops / std::chrono::duration<double>(Clock::now() - begin).count());
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return best;
}

}  // namespace sluice::models
