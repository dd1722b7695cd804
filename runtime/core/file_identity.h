// Whether a path still means the file that was opened by it.
#pragma once

#include <filesystem>

namespace sluice {

// False where the path leads to another file by now, or to none: removed, replaced, unmounted, mounted over.
bool leads_to(const std::filesystem::path& path, int fd);

}  // namespace sluice
