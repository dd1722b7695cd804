// A phase as a picture: the Chrome trace format, which Perfetto opens. One row per lane.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "runtime/plan/schedule.h"
#include "runtime/plan/simulate.h"

namespace sluice::exec {

class TraceWriter {
 public:
  // Slices of one phase, `begin_us` after the trace's start. `process`: "executed" or "simulated".
  void add(std::string_view process, const plan::Schedule& schedule, const std::vector<plan::Slice>& ops,
           double begin_us);
  // Throws RunError.
  void save(const std::filesystem::path& file) const;

 private:
  std::string events_;
};

}  // namespace sluice::exec
