// Names that a loss of power leaves in place: a file's name is safe once its folder was synced, and the folder's own
// name once the folder around it was. Contents are for the files' writers to sync. All block on the drive and throw
// RunError.
#pragma once

#include <filesystem>

#include "runtime/core/space_wait.h"

namespace sluice::train {

// What was created, renamed and removed in the folder.
void sync_folder(const std::filesystem::path& folder);
// The same for the folder and those inside it, innermost first.
void sync_folders(const std::filesystem::path& folder);
// Makes the folder with its parents, all of them safe. One that is there is left as it is. A full file system is waited
// for, as long as the patience lasts.
void make_folders(const std::filesystem::path& folder, const SpacePatience& patience = {});

}  // namespace sluice::train
