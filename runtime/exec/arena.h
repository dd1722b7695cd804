// The memory of one tier: one slab, cut into the plan's buffers. Nothing is allocated after construction.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include "runtime/core/units.h"
#include "runtime/plan/schedule.h"
#include "swap/host_slab.h"

namespace sluice::exec {

class Arena;

// Move-only pin on a range of an arena: the holder may touch those bytes.
class Lease {
 public:
  Lease() = default;
  Lease(Arena* arena, std::span<std::byte> memory) : arena_(arena), memory_(memory) {}
  Lease(Lease&& other) noexcept : arena_(std::exchange(other.arena_, nullptr)), memory_(other.memory_) {}
  Lease& operator=(Lease&& other) noexcept {
    std::swap(arena_, other.arena_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~Lease();
  std::span<std::byte> memory() const { return memory_; }

 private:
  Arena* arena_ = nullptr;
  std::span<std::byte> memory_;
};

// Used by the driver thread only.
class Arena {
 public:
  // Throws SetupError when the machine does not have the memory.
  explicit Arena(Bytes capacity) : slab_(std::in_place, capacity), memory_(slab_->memory()) {}
  // Of memory that somebody else owns, and keeps as long as this lives.
  explicit Arena(std::span<std::byte> memory) : memory_(memory) {}

  // CHECK failure past the end: the plan is wrong.
  Lease lease(const plan::Buffer& buffer);
  std::span<std::byte> memory() { return memory_; }
  Bytes high_water() const { return high_water_; }  // end of the highest lease so far
  int live() const { return live_; }

 private:
  friend class Lease;
  std::optional<swap::HostSlab> slab_;
  std::span<std::byte> memory_;
  Bytes high_water_;
  int live_ = 0;
};

}  // namespace sluice::exec
