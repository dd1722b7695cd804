// What buffers are called: by name a phase finds what another one left.
#pragma once

#include <string>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/plan.h"

namespace sluice::plan {

// The text of a name, whichever of the two sets it is of that an update behind backward may have: that of the first.
std::string of_first_set(std::string name);
BufferName home_weights_name(int g, int set);
BufferName device_weights_name(int g, int set);
BufferName weights_ring_name(const GroupShape& group);
BufferName load_ring_name(const GroupShape& group);

// Names of the buffers in which trained groups are found between phases, for saving them. The host's buffer of weights
// whose home is the disk or the device alone is a ring's first, which they must be brought to.
BufferName host_weights_name(const GroupPlan& where, const GroupShape& group, int g, int set);
BufferName weights_extent_name(int g, int set);
BufferName states_name(const GroupPlan& where, int g, int set);  // of those in memory
BufferName states_extent_name(int g, int64_t chunk, int set);
// Of the two sets, the newest: 1 for groups with two when `odd`, else 0.
int newest_set(const Plan& plan, int g, bool odd);
// Rings that chunks pass through: from files, and of an update.
inline constexpr std::string_view kStaging = "staging", kStatesStaging = "staging.states";
inline constexpr std::string_view kStatesRing = "states.ring", kGradientsChunkRing = "gradients.chunk.ring";
BufferName first_of_states_ring();
// An extent of trained weights or states, which checkpoints name.
bool is_trained_on_disk(const Buffer& buffer);
bool is_second_set(const Buffer& buffer);
// One of a ring of chunks of an update, in memory.
bool holds_a_chunk(const Buffer& buffer);

}  // namespace sluice::plan
