#include "runtime/train/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace sluice::train {

int32_t Sampler::pick(std::span<const float> logits) {
  if (options_.temperature <= 0)
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  };
  size_t kept = options_.top_k > 0 ? std::min(static_cast<size_t>(options_.top_k), order.size()) : order.size();
  if (kept < order.size()) {
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), larger);
  } else {
    std::sort(order.begin(), order.end(), larger);
  }
  std::vector<double> weights(kept);
  const double most = static_cast<double>(logits[static_cast<size_t>(order[0])]);
  for (size_t i = 0; i < kept; ++i)
    weights[i] = std::exp((static_cast<double>(logits[static_cast<size_t>(order[i])]) - most) / options_.temperature);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double mass = 0;
  for (size_t i = 0; i < kept && options_.top_p < 1; ++i) {
    mass += weights[i] / total;
    if (mass >= options_.top_p) kept = i + 1;
  }
  weights.resize(kept);
  return order[std::discrete_distribution<size_t>(weights.begin(), weights.end())(random_)];
}

}  // namespace sluice::train
