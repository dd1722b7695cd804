// LLaMA-Factory's way to name datasets: `dataset: a,b` are entries of dataset_info.json in `dataset_dir`.
#pragma once

#include <filesystem>
#include <vector>

#include "runtime/train/config.h"
#include "runtime/train/config_source.h"

namespace sluice::train {

// `dataset`: the key as it was given. `folder`: where dataset_info.json is, and the files that it names. Throws
// SetupError: no such entry, files that are elsewhere than on this machine, columns that cannot be trained on here.
std::vector<DatasetConfig> datasets_of_info(const Setting& dataset, const std::filesystem::path& folder);

}  // namespace sluice::train
