// Picks the next token from logits: temperature, then top-k, then top-p, as transformers' generate orders them.
#pragma once

#include <cstdint>
#include <random>
#include <span>

namespace sluice::train {

struct SamplerOptions {
  double temperature = 0;  // 0: the largest logit
  double top_p = 1;
  int64_t top_k = 0;
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {}
  int32_t pick(std::span<const float> logits);

 private:
  SamplerOptions options_;
  std::mt19937_64 random_;
};

}  // namespace sluice::train
