// Cuts a workspace into named pieces. The same cutting with no memory gives its size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/core/check.h"
#include "runtime/core/dtype.h"
#include "runtime/core/units.h"

namespace sluice::models {

class Scratch {
 public:
  // Measures only: every piece is null.
  Scratch() = default;
  explicit Scratch(std::span<std::byte> memory) : memory_(memory) {}

  void* take(Dtype dtype, int64_t elements) {
    const int64_t begin = used_;
    used_ += round_up(elements * size_of(dtype), kTensorAlignmentBytes);
    if (memory_.data() == nullptr) return nullptr;
    SLUICE_CHECK(used_ <= static_cast<int64_t>(memory_.size()), "the workspace is smaller than workspace_bytes said");
    return memory_.data() + begin;
  }
  template <class T>
  T* take_as(Dtype dtype, int64_t elements) {
    return static_cast<T*>(take(dtype, elements));
  }
  Bytes used() const { return Bytes{used_ > 0 ? used_ : kTensorAlignmentBytes}; }

 private:
  std::span<std::byte> memory_;
  int64_t used_ = 0;
};

}  // namespace sluice::models
