// How long a pass of a block takes on a machine that need not be there: from its products, its attention and what its
// other kernels stream.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/plan/machine.h"

namespace sluice::plan {

struct ProductWork {
  int64_t m = 0, n = 0, k = 0;  // [m, k] x [k, n]
  double count = 1;
};

// Causal, of whole documents of one length.
struct AttentionWork {
  int64_t heads = 0, head_dim = 0, length = 0;
  double forward_documents = 0, backward_documents = 0;
};

struct PassWork {
  std::vector<ProductWork> products;
  AttentionWork attention;
  double kernel_bytes = 0;  // read and written by elementwise and row kernels
};

// Throws SetupError when the machine says nothing of that type.
Microseconds time_of(const Machine& machine, Dtype dtype, const PassWork& work);

}  // namespace sluice::plan
