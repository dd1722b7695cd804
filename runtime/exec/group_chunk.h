// One chunk of a parameter group as it lies in memory, and its update on the host.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "optim/adamw.h"
#include "runtime/core/dtype.h"
#include "runtime/core/state_layout.h"
#include "runtime/core/units.h"

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

// What a chunk's arrays are made of.
struct UpdateKind {
  StateLayout states{MomentFormat::f32, Dtype::f32};
  Dtype gradients = Dtype::f32;
};
// Of `elements` of a group's beginning.
inline Bytes bytes_of(const UpdateKind& kind, int64_t elements) {
  const int64_t each = size_of(kind.states.weights()) + size_of(kind.gradients);
  return {elements * each + kind.states.bytes(0, elements)};
}
// What an update of them reads and writes: all but the gradients both ways.
inline Bytes bytes_moved(const UpdateKind& kind, int64_t elements) {
  return bytes_of(kind, elements) * 2 - Bytes{elements * size_of(kind.gradients)};
}
// Such a chunk in `memory` of bytes_of, 64-byte aligned. `kind` must outlive it.
GroupChunk lay_out_chunk(const UpdateKind& kind, int64_t elements, std::byte* memory);

optim::GradientView gradient_view(const std::byte* at, Dtype dtype, int64_t elements);

// Elements [first, last) of the chunk, cut into arrays that are updated alike: with one weight decay and one format of
// moments. `first` is a multiple of kStateBlock. `decays`: whether weight decay applies.
void for_each_alike(const GroupChunk& chunk, int64_t first, int64_t last,
                    const std::function<void(const optim::AdamWArrays& arrays, bool decays)>& act);

// Elements [first, last) of the chunk, in host memory.
void update_range(const GroupChunk& chunk, int64_t first, int64_t last, const optim::AdamWSettings& settings);

}  // namespace sluice::exec
