// Measures what this machine can do, all of runtime/plan/machine.h, in less than a minute.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/exec/gpu.h"
#include "runtime/exec/probe_drives.h"
#include "runtime/plan/machine.h"

namespace sluice::exec {

struct MachineProbeOptions {
  std::vector<std::filesystem::path> nvme_paths;  // each passed inspect_drive_for_probe
  ProbeLength length = ProbeLength::full;
  Gpu* gpu = nullptr;  // what computes; null: the CPU, whose memory is DRAM and whose copies are memcpy
  std::function<void(std::string_view)> progress = [](std::string_view) {};  // what is measured now
};

// Name, cores, memory and rates; not the fingerprint and the date. Throws SetupError and RunError.
plan::Machine probe_machine(const MachineProbeOptions& options);

}  // namespace sluice::exec
