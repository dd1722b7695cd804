// Proves a schedule safe under any timing: it cannot deadlock, overrun a tier, read what was not written, or touch a
// byte that another op may touch at the same time. Independent of how the schedule was built.
#pragma once

#include <array>
#include <vector>

#include "runtime/core/result.h"
#include "runtime/plan/schedule.h"

namespace sluice::plan {

// The first problem found, naming the ops and the buffer.
Result<void> verify(const Schedule& schedule, const std::vector<Buffer>& buffers,
                    const std::array<Bytes, kTierCount>& capacity);

}  // namespace sluice::plan
