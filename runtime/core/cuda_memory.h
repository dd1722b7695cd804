// Memory of a GPU, or of the host pinned for one, as long as its owner lives.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "runtime/core/units.h"

namespace sluice {

// How much of a GPU is there, and free, now; what the driver and the context take is already off.
struct CudaUsage {
  Bytes free, total;
};
CudaUsage cuda_usage(int device);

// From the host's memory, pinned or not, to the device's. All of it is there when this returns, whatever stream reads
// it next. `what` is being copied ("the angles").
void copy_to_device(void* to, std::span<const std::byte> from, const std::string& what);

enum class CudaMemoryKind { device, pinned };

class CudaMemory {
 public:
  CudaMemory() = default;
  // Of the calling thread's GPU. Throws SetupError when there is not that much, `what` ("the plan") being who takes it;
  // RunError otherwise.
  CudaMemory(CudaMemoryKind kind, Bytes bytes, const std::string& what);
  ~CudaMemory();
  CudaMemory(CudaMemory&& other) noexcept;
  CudaMemory& operator=(CudaMemory&& other) noexcept;

  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(memory_), static_cast<size_t>(bytes_.count)}; }
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  CudaMemoryKind kind_ = CudaMemoryKind::device;
  Bytes bytes_;
  void* memory_ = nullptr;
};

}  // namespace sluice
