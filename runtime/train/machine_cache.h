// What this host can do: measured once, kept in ${XDG_CACHE_HOME:-$HOME/.cache}/sluice until the hardware changes or a
// month has passed.
#pragma once

#include <filesystem>
#include <vector>

#include "runtime/plan/machine.h"
#include "runtime/train/entry.h"

namespace sluice::train {

// The cached one; measured first, in less than a minute, when there is none that holds. Progress goes to stderr.
// Throws SetupError and RunError.
plan::Machine machine_of_this_host(const std::vector<std::filesystem::path>& nvme_paths);

// `sluice probe`.
int run_probe(const ProbeOptions& options);

}  // namespace sluice::train
