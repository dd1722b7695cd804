// What a chunk's optimizer states are before its first update: new ones, or a checkpoint's. In host memory.
#pragma once

#include <cstddef>
#include <span>

#include "runtime/core/state_layout.h"
#include "runtime/exec/source_table.h"

namespace sluice::exec {

// Elements [begin, end) of a group, whose states lie at `states`.
struct StatesChunk {
  const StateLayout* layout = nullptr;
  int64_t begin = 0, end = 0;
  std::byte* states = nullptr;
};

// Elements [first, last) of the chunk, from a block's begin on: moments of zero, and what the master has beyond the
// weights. `source` and `staging`: of the weights, where they hold more than the compute dtype does; else null.
void start_states(const StatesChunk& chunk, const SourceChunk* source, std::span<const std::byte> staging,
                  int64_t first, int64_t last);

// The same from a checkpoint: `source` by locate_states.
void restore_states(const StatesChunk& chunk, const SourceChunk& source, std::span<const std::byte> staging,
                    int64_t first, int64_t last);

}  // namespace sluice::exec
