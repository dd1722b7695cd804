// Cuts a workspace into named pieces. The same cutting with no memory gives its size. Pieces that are never needed at
// the same time share memory: cut one phase, rewind to the mark before it, cut the next.
#pragma once

#include <algorithm>
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
    most_ = std::max(most_, used_);
    if (memory_.data() == nullptr) return nullptr;
    SLUICE_CHECK(used_ <= static_cast<int64_t>(memory_.size()), "the workspace is smaller than workspace_bytes said");
    return memory_.data() + begin;
  }
  template <class T>
  T* take_as(Dtype dtype, int64_t elements) {
    return static_cast<T*>(take(dtype, elements));
  }
  int64_t mark() const { return used_; }
  void rewind(int64_t mark) { used_ = mark; }
  // The most that was cut at any time.
  Bytes used() const { return Bytes{std::max(most_, kTensorAlignmentBytes)}; }

 private:
  std::span<std::byte> memory_;
  int64_t used_ = 0, most_ = 0;
};

}  // namespace sluice::models
