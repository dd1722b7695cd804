// The numbers that planning works on: what a model and a batch weigh and cost. No tensors, no devices.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/state_layout.h"
#include "runtime/core/units.h"

namespace sluice::plan {

struct GroupShape {
  std::string name;
  bool trainable = false;
  int64_t elements = 0;
  int64_t weight_bytes_per_element = 2;  // compute dtype; 1: packed, in low bits
  StateLayout states;                    // of a trained group
  // A chunk of weights as it lies in the user's files, read as aligned supersets: the largest over all chunks.
  Bytes staging_bytes = {};
  Bytes states_staging_bytes = {};  // the same of states that a checkpoint holds in pieces; 0: in whole tensors

  Bytes weight_bytes() const { return {elements * weight_bytes_per_element}; }
  Bytes state_bytes() const { return {states.bytes(0, elements)}; }
};

struct SlotShape {
  std::string name;
  Bytes bytes;                 // at tokens_max
  double recompute_flops = 0;  // at tokens_max
  Microseconds recompute_time;
};

enum class ComputePass : uint8_t { forward, backward };

struct BlockShape {
  std::string name;
  std::vector<int> groups;
  std::vector<SlotShape> slots;
  double forward_flops = 0;   // at tokens_max
  double backward_flops = 0;  // without recomputation
  // Bytes of scratch when the slots with kept[i] != 0 are there.
  std::function<Bytes(ComputePass, std::span<const uint8_t> kept)> workspace_bytes;
  // The passes in time, without recomputation; the head's backward is loss and gradients in one go.
  Microseconds forward_time, backward_time;
};

// Checkpoints that hold trained weights and states on disk: each a set of its own.
struct CheckpointShape {
  int kept = 0;      // the most at once, beside the set that is trained
  int there = 0;     // of runs before, in the same files
  Bytes held_bytes;  // by those
};

// The first block has no input, the last no output: it computes the loss and the first gradient in one go.
struct JobShape {
  std::vector<GroupShape> groups;
  std::vector<BlockShape> blocks;
  int64_t tokens_max = 0;  // of one micro-batch
  Bytes boundary_bytes;    // a block's output, at tokens_max
  int micro_batches = 1;   // of a whole step
  int64_t gradient_bytes_per_element = 4;
  // What the process takes beside its arenas (code, libraries, their caches), and what LibTorch may take inside a
  // block.
  Bytes process_bytes;
  Bytes transient_bytes;
  // The same on a GPU: the driver's context, libraries and their workspaces; what kernels take beside their operands.
  Bytes device_process_bytes;
  Bytes device_transient_bytes;
  // What updates and norms of groups that live on a device of its own memory read and write there.
  BytesPerSecond device_memory_rate;
  // What measuring the job's blocks and rates took, before the arenas.
  Bytes measuring_bytes;
  CheckpointShape checkpoints;
};

}  // namespace sluice::plan
