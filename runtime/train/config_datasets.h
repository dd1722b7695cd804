// The key `datasets`: a list of blocks, each with keys of its own; and what else says which datasets.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/train/config.h"
#include "runtime/train/config_source.h"

namespace sluice::train {

// Keys of all datasets that are unknown, not supported or given twice join those of the job.
void check_dataset_keys(Settings& settings);
// Of the key `datasets`, or of LLaMA-Factory's names. `file`: of the job. Throws SetupError at the value that is wrong.
std::vector<DatasetConfig> read_datasets(const Settings& settings, const std::filesystem::path& file,
                                         std::vector<std::string>& notes);

}  // namespace sluice::train
