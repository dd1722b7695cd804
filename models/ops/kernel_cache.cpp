#include "models/kernel_cache.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "models/locate_weights.h"

namespace sluice::models {

int64_t kernels_per_token_count(const Model& model) {
  if (model.compute_dtype == Dtype::f32) return 0;
  constexpr int64_t kFull = 20, kWithAdapters = 36;  // counted: 16 and 30, with one size of layer
  return std::any_of(model.groups.begin(), model.groups.end(), is_adapter_group) ? kWithAdapters : kFull;
}

Bytes kernel_bytes(int64_t kernels) { return KiB(584) * kernels; }

void limit_kernels(int64_t kernels) {
  const bool users_own = getenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY") != nullptr;
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", std::to_string(kernels).c_str(), 0);
  // LibTorch's own cache in front of it holds on to what oneDNN has dropped.
  if (!users_own) setenv("LRU_CACHE_CAPACITY", "1", 0);
}

}  // namespace sluice::models
