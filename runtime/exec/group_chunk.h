// One chunk of a parameter group as it lies in memory, and its update on the host.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "optim/adamw.h"
#include "runtime/core/dtype.h"
#include "runtime/core/state_layout.h"

namespace sluice::exec {

// Host or device memory.
struct GroupChunk {
  std::byte* weights = nullptr;
  const std::byte* gradients = nullptr;
  std::byte* states = nullptr;  // as `layout` has them of this range
  const StateLayout* layout = nullptr;
  int group = 0;
  int64_t begin = 0, elements = 0;  // of the group
  int64_t decayed = 0;              // the chunk's first ones: norms and biases, which follow the matrices, do not decay
  Dtype gradient_dtype = Dtype::f32;
};

optim::GradientView gradient_view(const std::byte* at, Dtype dtype, int64_t elements);

// Elements [first, last) of the chunk, cut into arrays that are updated alike: with one weight decay and one format of
// moments. `first` is a multiple of kStateBlock. `decays`: whether weight decay applies.
void for_each_alike(const GroupChunk& chunk, int64_t first, int64_t last,
                    const std::function<void(const optim::AdamWArrays& arrays, bool decays)>& act);

// Elements [first, last) of the chunk, in host memory.
void update_range(const GroupChunk& chunk, int64_t first, int64_t last, const optim::AdamWSettings& settings);

}  // namespace sluice::exec
