// Cross-entropy on a GPU, of a tile of logits.
#pragma once

#include <cstdint>

namespace sluice::models::cuda {

// As Kernels::cross_entropy.
template <class T>
void cross_entropy(void* logits, const int32_t* labels, double* row_losses, float scale, bool gradient, int64_t rows,
                   int64_t vocabulary);

}  // namespace sluice::models::cuda
