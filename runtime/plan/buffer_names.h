// What buffers are called: by name a phase finds what another one left.
#pragma once

#include <string>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/plan.h"

namespace sluice::plan {

// "weights.host.3"; "boundary.2.0".
std::string numbered(const char* name, int64_t a);
std::string numbered(const char* name, int64_t a, int64_t b);
std::string numbered(const char* name, int64_t a, int64_t b, int64_t c);
// Of the two sets that an update behind backward may have.
std::string of_set(std::string name, int set);
std::string of_first_set(std::string name);  // whichever of the two it is of
std::string home_weights_name(int g, int set);
std::string device_weights_name(int g, int set);
std::string weights_ring_name(const GroupShape& group);

std::string load_ring_name(const GroupShape& group);

// Names of the buffers in which trained groups are found between phases, for saving them. The host's buffer of weights
// whose home is the disk or the device alone is a ring's first, which they must be brought to.
std::string host_weights_name(const GroupPlan& where, const GroupShape& group, int g, int set);
std::string weights_extent_name(int g, int set);
std::string states_name(const GroupPlan& where, int g, int set);  // of those in memory
std::string states_extent_name(int g, int64_t chunk, int set);
// Of the two sets, the newest: 1 for groups with two when `odd`, else 0.
int newest_set(const Plan& plan, int g, bool odd);
inline constexpr const char* kStatesRingFirst = "states.ring[0]";
// An extent of trained weights or states, which checkpoints name.
bool is_trained_on_disk(const Buffer& buffer);
bool is_second_set(const Buffer& buffer);
// One of a ring of chunks of an update, in memory.
bool holds_a_chunk(const Buffer& buffer);

}  // namespace sluice::plan
