#include "runtime/exec/arena.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace sluice::exec {

Lease::~Lease() {
  if (arena_ != nullptr) --arena_->live_;
}

Lease Arena::lease(const plan::Buffer& buffer) {
  const auto end = Bytes{buffer.offset + buffer.bytes};
  SLUICE_CHECK(end.count <= static_cast<int64_t>(memory_.size()),
               "buffer " + buffer.name.text() + " is outside its arena");
  high_water_ = std::max(high_water_, end);
  ++live_;
  return {this, memory_.subspan(static_cast<size_t>(buffer.offset), static_cast<size_t>(buffer.bytes))};
}

}  // namespace sluice::exec
