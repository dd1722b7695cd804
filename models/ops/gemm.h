// Matrix products of the cpu device, by LibTorch (oneDNN, MKL) into memory that the caller owns.
#pragma once

#include <cstdint>

#include "runtime/core/dtype.h"

namespace sluice::models {

// Rows `stride` elements apart; 0: contiguous.
struct Matrix {
  const void* data = nullptr;
  int64_t rows = 0, columns = 0;
  int64_t stride = 0;
};

// Where a product goes: over what is there, or added to it with one rounding. Stride as in Matrix.
enum class Into { overwrite, accumulate };
struct Target {
  void* data = nullptr;
  int64_t stride = 0;
  Into into = Into::overwrite;
};

// y [N, O] = x [N, I] w^T, w [O, I].
void multiply_by_transposed(Dtype dtype, Matrix x, Matrix w, Target y);
// y [N, I] = x [N, O] w, w [O, I].
void multiply(Dtype dtype, Matrix x, Matrix w, Target y);
// y [O, I] = a^T b, a [N, O], b [N, I].
void multiply_transposed_by(Dtype dtype, Matrix a, Matrix b, Target y);

}  // namespace sluice::models
