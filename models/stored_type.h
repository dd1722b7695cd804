// The element types of the safetensors format. Those with a Dtype can be read and written here.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "runtime/core/check.h"
#include "runtime/core/dtype.h"

namespace sluice::models {

struct StoredType {
  std::string_view name;
  int64_t bits;
  std::optional<Dtype> dtype;
};
inline constexpr std::array kStoredTypes = {
    StoredType{"F32", 32, Dtype::f32}, StoredType{"BF16", 16, Dtype::bf16},
    StoredType{"F16", 16, Dtype::f16}, StoredType{"I16", 16, Dtype::i16},
    StoredType{"I32", 32, Dtype::i32}, StoredType{"BOOL", 8, {}},
    StoredType{"U8", 8, Dtype::u8},    StoredType{"I8", 8, Dtype::i8},
    StoredType{"F8_E5M2", 8, {}},      StoredType{"F8_E4M3", 8, {}},
    StoredType{"F8_E5M2FNUZ", 8, {}},  StoredType{"F8_E4M3FNUZ", 8, {}},
    StoredType{"F8_E8M0", 8, {}},      StoredType{"F4", 4, {}},
    StoredType{"F6_E2M3", 6, {}},      StoredType{"F6_E3M2", 6, {}},
    StoredType{"U16", 16, {}},         StoredType{"U32", 32, {}},
    StoredType{"F64", 64, {}},         StoredType{"I64", 64, {}},
    StoredType{"U64", 64, {}},         StoredType{"C64", 64, {}},
};

// Null when the format has no such type.
inline const StoredType* find_stored_type(std::string_view name) {
  const auto found =
      std::find_if(kStoredTypes.begin(), kStoredTypes.end(), [&](const StoredType& type) { return type.name == name; });
  return found == kStoredTypes.end() ? nullptr : &*found;
}

inline std::string_view stored_name(Dtype dtype) {
  for (const StoredType& type : kStoredTypes) {
    if (type.dtype == dtype) return type.name;
  }
  check_failed("stored_name", "a Dtype without a safetensors name", std::source_location::current());
}

}  // namespace sluice::models
