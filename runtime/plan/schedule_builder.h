// Lowers a Plan to the Schedule of one phase.
//
// A group is updated at one of two times. Before forward: in the *next* phase, just before the group's first use, where
// the global norm is known, the weights leave the disk once for update and forward, and the update overlaps that
// forward. Behind backward: in the same phase, one block after its own backward, overlapping the rest of it. With
// clipping the factor is not known there: weights and states of such groups then have two sets, each phase reads one
// and writes the other, and `redo` repeats the update from the old set when the norm exceeded its limit after all.
// A training phase is [update, forward] of every block in order, the loss, then the backwards; `flush` runs updates
// alone. Program order decides what each lane does next; how far a lane runs ahead is the number of buffers in a ring.
#pragma once

#include "runtime/plan/job_shape.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/phase.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/schedule.h"

namespace sluice::plan {

// Asks `layout` for the buffers it needs. `source_low_bits[g]`: the group's source is fp32 and its weights bf16, so
// virgin states take their low halves from the source.
Schedule build_schedule(const JobShape& shape, const Plan& plan, const Phase& phase,
                        std::span<const uint8_t> source_low_bits, Layout& layout);

}  // namespace sluice::plan
