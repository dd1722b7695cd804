#include "swap/host_slab.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "runtime/core/processor.h"
#include "runtime/core/result.h"

namespace sluice::swap {
namespace {

// Makes every page present. The kernel clears them, so nothing is written twice; old kernels are made to by a touch.
void populate(std::span<std::byte> part) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(part.data(), part.size(), MADV_POPULATE_WRITE) == 0) return;
#endif
  for (size_t at = 0; at < part.size(); at += 4096) const_cast<volatile std::byte&>(part[at]) = std::byte{0};
}

// Clearing pages is bound by one core's memory traffic: all cores share it.
void populate_in_parallel(std::span<std::byte> memory) {
  constexpr size_t kPartBytes = size_t{64} << 20;
  const size_t parts = std::clamp<size_t>(memory.size() / kPartBytes, 1, static_cast<size_t>(usable_cores()));
  const size_t share = (memory.size() / parts + 4095) / 4096 * 4096;
  std::vector<std::thread> others;
  for (size_t at = share; at < memory.size(); at += share)
    others.emplace_back([part = memory.subspan(at, std::min(share, memory.size() - at))] { populate(part); });
  populate(memory.first(std::min(share, memory.size())));
  for (std::thread& thread : others) thread.join();
}

}  // namespace

HostSlab::HostSlab(Bytes bytes) {
  const auto length = static_cast<size_t>(round_up(bytes.count, 4096));
  void* at = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    throw SetupError("cannot allocate " + to_string(bytes) + " of host memory: " + std::strerror(errno),
                     "lower offload.max_cpu, or close other programs");
  memory_ = {static_cast<std::byte*>(at), length};
  // Fewer page-table walks for streaming; only advice, so a refusal is no failure.
  (void)madvise(at, length, MADV_HUGEPAGE);
  populate_in_parallel(memory_);
}

HostSlab::~HostSlab() { munmap(memory_.data(), memory_.size()); }

}  // namespace sluice::swap
