// Where block passes are timed: memory that programs compute in, and a clock that knows when they have ended.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "runtime/core/units.h"

namespace sluice::exec {

class PassPlace {
 public:
  virtual ~PassPlace() = default;
  // 64-byte aligned, gone with what is returned. Throws SetupError when there is not that much.
  class Memory {
   public:
    virtual ~Memory() = default;
    virtual std::span<std::byte> bytes() const = 0;
  };
  virtual std::unique_ptr<Memory> allocate(Bytes bytes) = 0;
  virtual void write(std::byte* to, std::span<const std::byte> from) = 0;
  // Runs the pass, and waits until it has ended.
  virtual Microseconds time(const std::function<void()>& pass) = 0;
  // Between begin_transient and the call of transient: the most that passes took beside their memory.
  virtual void begin_transient() = 0;
  virtual Bytes transient() = 0;
};

// The host's memory, on the calling thread. The transient is of this process's resident memory.
std::unique_ptr<PassPlace> make_host_place();

}  // namespace sluice::exec
