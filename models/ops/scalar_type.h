// LibTorch's name of an element type.
#pragma once

#include <cstdint>

#include "runtime/core/dtype.h"

namespace c10 {
enum class ScalarType : int8_t;
}

namespace sluice::models {

// Of f32, bf16 and f16: what is computed in.
c10::ScalarType scalar_type(Dtype dtype);

}  // namespace sluice::models
