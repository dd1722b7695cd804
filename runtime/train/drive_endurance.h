// How much a drive is rated to take over its life, by the model that the kernel names.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "swap/drive_kind.h"

namespace sluice::train {

// Terabytes (10^12 bytes) written, from the maker's datasheet. Nothing: not a model of the list.
std::optional<double> rated_terabytes(const std::string& model);
// Of a path whose drives are these, written alike; nothing when one of them is not known, or there is none.
std::optional<double> rated_terabytes(std::span<const std::string> models);
// Of paths together; one drive's count once. Nothing when one path's is not known.
std::optional<double> rated_terabytes(std::span<const swap::DriveKind> paths);

}  // namespace sluice::train
