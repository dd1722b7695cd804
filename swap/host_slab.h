// Page-aligned memory of a fixed size for the host tier, touched at birth so that it is really there.
#pragma once

#include <cstddef>
#include <span>

#include "runtime/core/units.h"

namespace sluice::swap {

class HostSlab {
 public:
  // Throws SetupError when the machine does not have it. Zero-filled.
  explicit HostSlab(Bytes bytes);
  ~HostSlab();
  HostSlab(const HostSlab&) = delete;
  HostSlab& operator=(const HostSlab&) = delete;

  std::span<std::byte> memory() const { return memory_; }

 private:
  std::span<std::byte> memory_;
};

}  // namespace sluice::swap
