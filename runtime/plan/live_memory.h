// How much of each tier is in use over a step, by what for: arenas are of one size, and what lies in them comes and
// goes.
#pragma once

#include <array>
#include <vector>

#include "runtime/plan/simulate.h"

namespace sluice::plan {

// The step cut into equal parts: [tier][tag][part], bytes at most in use at once in that part, a buffer counting whole.
// Persistent buffers always are; a passing one is from the op that fills it to the last that takes its content.
using LiveMemory = std::array<std::array<std::vector<int64_t>, kTagCount>, kTierCount>;

// `ops`: when each op ran. `parts`: at least 1.
LiveMemory live_memory(const Schedule& schedule, const std::vector<Slice>& ops, const std::vector<Buffer>& buffers,
                       size_t parts);

}  // namespace sluice::plan
