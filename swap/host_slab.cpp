#include "swap/host_slab.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "runtime/core/result.h"

namespace sluice::swap {

HostSlab::HostSlab(Bytes bytes) {
  const auto length = static_cast<size_t>(round_up(bytes.count, 4096));
  void* at = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    throw SetupError("cannot allocate " + to_string(bytes) + " of host memory: " + std::strerror(errno),
                     "lower offload.max_cpu, or close other programs");
  memory_ = {static_cast<std::byte*>(at), length};
  // Fewer page-table walks for streaming; only advice, so a refusal is no failure.
  (void)madvise(at, length, MADV_HUGEPAGE);
  std::memset(at, 0, length);
}

HostSlab::~HostSlab() { munmap(memory_.data(), memory_.size()); }

}  // namespace sluice::swap
