// From measured times to the models of machine.h, and how far those are off on shapes that they have not seen.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/plan/machine.h"

namespace sluice::plan {

struct GemmSample {
  int64_t m = 0, n = 0, k = 0;
  double seconds = 0;
};

struct AttentionSample {
  int64_t heads = 0, head_dim = 0, length = 0;
  double forward_seconds = 0, backward_seconds = 0;
};

// Fewer do not determine a model.
inline constexpr size_t kGemmSamplesMin = 9, kAttentionSamplesMin = 6;

// Least relative error, an outlier counting little more than its neighbours. Every third sample (the third, sixth, ...)
// is held out: error_median and error_worst are of those. The samples' order must not follow their size.
GemmModel fit_gemm(std::span<const GemmSample> samples);
AttentionModel fit_attention(std::span<const AttentionSample> samples);

}  // namespace sluice::plan
