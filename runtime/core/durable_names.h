// Names that a loss of power leaves in place: a file's is safe once its folder was synced, and a folder's own once the
// folder around it was.
#pragma once

#include <filesystem>
#include <vector>

namespace sluice {

// Syncs what was created, renamed and removed in the folder; blocks on the drive. errno, or 0.
int sync_names(const std::filesystem::path& folder);

std::filesystem::path folder_around(const std::filesystem::path& folder);

// `folder` and those around it that are not there, the outermost first: in this order each can be made, and its name
// synced in the one around it.
std::vector<std::filesystem::path> missing_folders(std::filesystem::path folder);

}  // namespace sluice
