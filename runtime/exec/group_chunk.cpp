#include "runtime/exec/group_chunk.h"

#include <algorithm>

namespace sluice::exec {
namespace {

void update_alike(const GroupChunk& chunk, int64_t first, int64_t last, const optim::AdamWSettings& settings) {
  if (first >= last) return;
  const optim::GradientView gradients =
      gradient_view(chunk.gradients + first * size_of(chunk.gradient_dtype), chunk.gradient_dtype, last - first);
  const StatesView states = chunk.states_view();
  const std::span<float> m = slice(states.m, first, last), v = slice(states.v, first, last);
  std::byte* weights = chunk.weights + first * size_of(chunk.weight_dtype);
  const auto count = static_cast<size_t>(last - first);
  if (chunk.weight_dtype == Dtype::bf16) {
    optim::adamw_split(optim::best_isa(), settings, {reinterpret_cast<uint16_t*>(weights), count},
                       slice(states.lo, first, last), gradients, m, v);
  } else {
    optim::adamw_f32(optim::best_isa(), settings, {reinterpret_cast<float*>(weights), count}, gradients, m, v);
  }
}

}  // namespace

optim::GradientView gradient_view(const std::byte* at, Dtype dtype, int64_t elements) {
  const auto count = static_cast<size_t>(elements);
  if (dtype == Dtype::f32) return {{reinterpret_cast<const float*>(at), count}, {}};
  return {{}, {reinterpret_cast<const uint16_t*>(at), count}};
}

void update_range(const GroupChunk& chunk, int64_t first, int64_t last, const optim::AdamWSettings& settings) {
  const int64_t border = std::clamp(chunk.decayed, first, last);
  optim::AdamWSettings undecayed = settings;
  undecayed.weight_decay = 0;
  update_alike(chunk, first, border, settings);
  update_alike(chunk, border, last, undecayed);
}

}  // namespace sluice::exec
