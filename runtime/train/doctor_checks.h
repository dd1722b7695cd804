// What `sluice doctor` looks at, one finding each.
#pragma once

#include <string>
#include <vector>

#include "runtime/train/doctor.h"

namespace sluice::train {

enum class Verdict {
  good,
  limited,  // jobs run, and it costs them something
  missing   // a job cannot run
};

struct Finding {
  std::string check;  // "gpu", "memlock", ...: a name for programs, and for people
  std::string path;   // that it is about; empty: the machine
  Verdict verdict = Verdict::good;
  std::string found;
  std::string costs;  // empty: nothing
  std::string fix;    // a command, or a setting of the job; empty: none is needed, or none helps
};

// Processor, memory, GPU and limits, the ring, what computes and what prepares text. `job`: null without one.
std::vector<Finding> examine_machine(const DoctorOptions& options);
// Whether it can be written to, past the page cache, and what drive it is on. Leaves nothing there.
std::vector<Finding> examine_path(const std::filesystem::path& path, const Config* job);

}  // namespace sluice::train
