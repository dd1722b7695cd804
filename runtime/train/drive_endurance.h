// How much a drive is rated to take over its life, by the model that the kernel names.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swap/drive_kind.h"

namespace sluice::train {

// Terabytes (10^12 bytes) written, from the maker's datasheet. Nothing: not a model of the list.
std::optional<double> rated_terabytes(const std::string& model);
// Of a path whose drives are these, written alike; nothing when one of them is not known, or there is none.
std::optional<double> rated_terabytes(std::span<const std::string> models);
// Of paths together; one drive's count once. Nothing when one path's is not known.
std::optional<double> rated_terabytes(std::span<const swap::DriveKind> paths);
// Of these paths, or the folders that they will be made in, by what the kernel says of them; 0: not known. As
// swap::inspect_drive, but a path that cannot be used is no error here.
Bytes rated_endurance_of(const std::vector<std::filesystem::path>& nvme_paths);

}  // namespace sluice::train
