// One chunk of a parameter group as it lies in memory, and its update on the host.
#pragma once

#include <cstddef>
#include <span>

#include "optim/adamw.h"
#include "runtime/core/dtype.h"

namespace sluice::exec {

// Optimizer states of a chunk, in memory as in its extent.
struct StatesView {
  std::span<float> m, v;
  std::span<int16_t> lo;  // empty for fp32 weights
  StatesView(std::byte* at, int64_t elements, bool split)
      : m(reinterpret_cast<float*>(at), static_cast<size_t>(elements)),
        v(reinterpret_cast<float*>(at) + elements, static_cast<size_t>(elements)),
        lo(reinterpret_cast<int16_t*>(at + 8 * elements), split ? static_cast<size_t>(elements) : 0) {}
};

template <class T>
std::span<T> slice(std::span<T> whole, int64_t begin, int64_t end) {
  return whole.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
}

// Host or device memory.
struct GroupChunk {
  std::byte* weights = nullptr;
  const std::byte* gradients = nullptr;
  std::byte* states = nullptr;
  int64_t elements = 0;
  int64_t decayed = 0;  // the first ones: norms and biases, which follow the matrices, do not decay
  Dtype weight_dtype = Dtype::bf16, gradient_dtype = Dtype::f32;

  StatesView states_view() const { return {states, elements, weight_dtype == Dtype::bf16}; }
};

optim::GradientView gradient_view(const std::byte* at, Dtype dtype, int64_t elements);

// Elements [first, last) of the chunk, in host memory.
void update_range(const GroupChunk& chunk, int64_t first, int64_t last, const optim::AdamWSettings& settings);

}  // namespace sluice::exec
