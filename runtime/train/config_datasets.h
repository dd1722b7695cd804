// The key `datasets`: a list of blocks, each with keys of its own.
#pragma once

#include "runtime/train/config.h"
#include "runtime/train/config_source.h"

namespace sluice::train {

// Keys of all datasets that are unknown, not supported or given twice join those of the job.
void check_dataset_keys(Settings& settings);
// Throws SetupError at the value that is wrong.
DatasetConfig read_dataset(const Setting& datasets, const DocumentValue& entry);

}  // namespace sluice::train
