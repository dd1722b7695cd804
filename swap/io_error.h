// errno of a transfer, said so that the user knows which file, where, and what to do.
#pragma once

#include <cstdint>
#include <filesystem>

#include "runtime/core/result.h"
#include "swap/io_backend.h"

namespace sluice::swap {

Error io_error(Direction direction, const std::filesystem::path& file, int64_t offset, int64_t bytes, int error);

}  // namespace sluice::swap
