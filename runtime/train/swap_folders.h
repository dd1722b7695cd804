// The folders that a job swaps to, one per drive.
#pragma once

#include <filesystem>
#include <vector>

#include "runtime/core/units.h"
#include "runtime/train/config.h"
#include "swap/swap_engine.h"

namespace sluice::train {

// A folder not made yet lies on its parent's file system.
std::filesystem::path nearest_existing(std::filesystem::path path);

// Space that is left on the drives of all `paths`.
Bytes free_disk(const std::vector<std::filesystem::path>& paths);

// Says which folders will be made. Throws SetupError when one is named twice.
void check_nvme_paths(const Config& config);

swap::SwapOptions swap_options(const Config& config);

}  // namespace sluice::train
