#include "models/ops/scalar_type.h"

#include <c10/core/ScalarType.h>

#include "runtime/core/check.h"

namespace sluice::models {

c10::ScalarType scalar_type(Dtype dtype) {
  if (dtype == Dtype::f32) return at::kFloat;
  if (dtype == Dtype::bf16) return at::kBFloat16;
  SLUICE_CHECK(dtype == Dtype::f16, "nothing is computed in this type");
  return at::kHalf;
}

}  // namespace sluice::models
