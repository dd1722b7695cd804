// A schedule's ops as a picture shows them: on each lane in order of time, those alike that follow one another as one.
#pragma once

#include <string>
#include <vector>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/simulate.h"

namespace sluice::plan {

struct Span {
  Lane lane;
  Slice when;
  std::string what;  // "forward layer.3"
};

// `ops`: when each op ran. At most about `most` spans: gaps that are too short to be seen are drawn over, longer ones
// where there are more ops.
std::vector<Span> timeline_of(const Schedule& schedule, const std::vector<Slice>& ops, const JobShape& shape,
                              size_t most);

}  // namespace sluice::plan
