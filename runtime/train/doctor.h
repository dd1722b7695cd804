// `sluice doctor`: what this machine can do for a job, each thing really tried, and the one command that mends it.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/train/config.h"

namespace sluice::train {

struct DoctorOptions {
  std::optional<Config> job;                      // whose paths, device and files are looked at
  std::vector<std::filesystem::path> nvme_paths;  // beside the job's
  bool json = false;
  // Opens the GPU as a job would and names it. Throws SetupError: why none can be used.
  std::function<std::string()> open_gpu;
  // Loads what computes. Throws SetupError.
  std::function<void()> load_runtime;
};

// Prints what it finds to stdout. Writes a few megabytes to each path and removes them again. Returns 0 when a job can
// run, else 2.
int run_doctor(const DoctorOptions& options);

}  // namespace sluice::train
