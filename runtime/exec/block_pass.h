// Runs every kind of block once at the job's size, before anything else is allocated: how long its program takes on
// this machine, and what it allocates beside its workspace (LibTorch, oneDNN, thread stacks).
#pragma once

#include <functional>
#include <vector>

#include "models/program.h"
#include "runtime/exec/pass_place.h"

namespace sluice::exec {

struct BlockPass {
  Microseconds forward;               // of the head: its loss without gradients
  Microseconds backward;              // with all slots kept; of the head: loss and gradients
  Microseconds backward_recomputing;  // with no slot kept
  // What each slot adds to it; empty where they were measured together.
  std::vector<Microseconds> slot_recomputing;
};

struct BlockPasses {
  std::vector<BlockPass> blocks;  // one per block of the model; blocks of one kind share their figures
  // The most that passes take beyond what they are given, in the host's memory and in a device's own.
  Bytes transient, device_transient;
  // What measuring left resident in this process when it was done, and the first step will where it was not done in
  // this one: compiled kernels, LibTorch's pools.
  Bytes resident_later;
  double pace = 1;  // by experience, steps take so many times what was measured; the times have been scaled with it
  bool in_host = false;  // measured where the host's arenas will be; else predicted, or in device memory
};

struct PassSize {
  int64_t tokens = 0;    // of a micro-batch
  int64_t document = 0;  // tokens of its documents
  Dtype gradient_dtype = Dtype::f32;
};

// With all times multiplied.
BlockPasses slowed(BlockPasses passes, double times);

// What measure_block_passes takes at once, beside `transient`, and what layer_load does.
Bytes pass_memory(const models::Model& model, const PassSize& size);
Bytes layer_load_memory(const models::Model& model, const PassSize& size);

// The most of `spare` that measure_block_passes takes.
inline constexpr Bytes kCacheSweepBytesMost = MiB(128);

// Blocks for a few times the cost of one layer's and the head's backward. Takes the memory of one block at a time:
// its parameters, gradients, slots and workspace; and of `spare` what it takes to start each run with cold caches.
// Throws SetupError when the place does not have it.
BlockPasses measure_block_passes(PassPlace& where, const models::Model& model, const PassSize& size, Bytes spare);

// One forward and backward of the middle layer per call, in host memory: what compute does all the time. Owns its
// memory, refers to `model`.
std::function<void()> layer_load(const models::Model& model, const PassSize& size);

}  // namespace sluice::exec
