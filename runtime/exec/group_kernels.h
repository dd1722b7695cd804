// What a device does to groups that live in its memory, between the passes of its compute lane.
#pragma once

#include <memory>
#include <span>

#include "runtime/exec/group_chunk.h"

namespace sluice::exec {

// Called on the thread that runs a device's compute ops. Where the device is a GPU, calls only enqueue there; the
// arguments' memory is the device's. The same bits as on the host, for every call.
class GroupKernels {
 public:
  virtual ~GroupKernels() = default;
  virtual void update(const GroupChunk& chunk, const optim::AdamWSettings& settings) = 0;
  // runs[i]: the sum of squares of the i-th optim::kNormRunElements elements. `runs` is of allocate_sums.
  virtual void squared_norm(const std::byte* gradients, Dtype dtype, int64_t elements, double* runs) = 0;
  virtual void copy(std::byte* to, const std::byte* from, int64_t bytes) = 0;
  // Numbers that the device writes and the host reads once an op has ended; as long as this lives. Not while ops run.
  virtual std::span<double> allocate_sums(int64_t count) = 0;
};

// The device's memory is the host's; calls block.
std::unique_ptr<GroupKernels> make_host_group_kernels(int threads);

}  // namespace sluice::exec
