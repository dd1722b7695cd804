// How requests reach the kernel. One thread, the io thread, owns a backend and makes every call but wake().
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/result.h"

namespace sluice::swap {

enum class Direction : uint8_t { read, write };

struct IoRequest {
  int fd = -1;
  Direction direction = Direction::read;
  int64_t offset = 0;
  std::byte* memory = nullptr;
  int64_t bytes = 0;  // at most kRequestBytesMax
  uint64_t user = 0;
};

// Linux moves at most this much per call (read(2), NOTES).
inline constexpr int64_t kRequestBytesMax = 0x7ffff000;

struct IoOutcome {
  uint64_t user = 0;
  int64_t result = 0;  // bytes moved, maybe fewer than asked, or -errno
};

class IoBackend {
 public:
  virtual ~IoBackend() = default;
  // Takes as many requests from the front as there is room for; returns how many.
  virtual size_t submit(std::span<const IoRequest> requests) = 0;
  // Outcomes so far; blocks until there is one, or wake() was called, when none is there yet.
  virtual std::vector<IoOutcome> reap() = 0;
  // From any thread: ends a reap() that blocks, or the next one.
  virtual void wake() = 0;
  // Lets the kernel keep the pages mapped. An error is no failure: transfers work without.
  virtual Result<void> register_memory(std::span<std::byte> memory) = 0;
};

// Requests that the kernel takes none of for `patience` end with ENOMEM, which is why it does so. Error: io_uring is
// refused (old kernel, seccomp, sysctl).
Result<std::unique_ptr<IoBackend>> make_uring_backend(int depth,
                                                      std::chrono::milliseconds patience = std::chrono::minutes(1));
std::unique_ptr<IoBackend> make_thread_backend(int depth);

}  // namespace sluice::swap
