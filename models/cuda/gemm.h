// Matrix products on a GPU by cuBLASLt. Sums are fp32; fp32 operands are multiplied as fp32, never TF32.
#pragma once

#include <cstdint>
#include <memory>

#include "models/ops/gemm.h"
#include "runtime/core/dtype.h"
#include "runtime/core/units.h"

namespace sluice::models::cuda {

enum class Transposed { neither, first, second };

struct Product {
  Dtype dtype = Dtype::f32;  // of both operands
  Transposed transposed = Transposed::neither;
  Matrix a, b;  // as they lie in memory
  void* y = nullptr;
  int64_t y_stride = 0;        // 0: contiguous
  Dtype y_dtype = Dtype::f32;  // that of the operands, or f32
  Into into = Into::overwrite;
};

// Which algorithm a product takes is decided by its shape, strides and types alone, so that the same product has the
// same bits wherever its operands lie. Kept once found. One caller at a time.
class Gemm {
 public:
  // Takes kWorkspace of device memory, throws RunError when it is not there.
  Gemm();
  ~Gemm();
  // Enqueues on this thread's stream.
  void multiply(const Product& product);

  // What cuBLASLt's own advice is for the largest GPUs.
  static constexpr Bytes kWorkspace = MiB(32);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::models::cuda
