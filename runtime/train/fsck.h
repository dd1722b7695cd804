// `sluice fsck`: what of a job's output_dir and the swap folders that it names is whole.
#pragma once

#include <filesystem>

namespace sluice::train {

// Reads every byte of every checkpoint once, writes nothing but a report to stdout. Returns 0 when all is whole and
// nothing is left over, else 2. Throws SetupError: no such folder.
int run_fsck(const std::filesystem::path& output_dir);

}  // namespace sluice::train
