// Names that a loss of power leaves in place (core/durable_names.h), for a run: a full drive is borne with. Contents
// are for the files' writers to sync. All block on the drive and throw RunError.
#pragma once

#include <filesystem>
#include <string_view>

#include "runtime/core/space_wait.h"

namespace sluice::train {

// What was created, renamed and removed in the folder. Throws NoRoomAtSync (output_file.h) on a full file system.
void sync_folder(const std::filesystem::path& folder, const SpacePatience& patience = {});
// The same for the folder and those inside it, innermost first.
void sync_folders(const std::filesystem::path& folder, const SpacePatience& patience = {});
// Makes the folder with its parents, all of them safe. One that is there is left as it is. A full file system is waited
// for, as long as the patience lasts.
void make_folders(const std::filesystem::path& folder, const SpacePatience& patience = {});
// Within one file system; what has that name goes, unless it is a folder. Waits as make_folders does.
void rename_in_place(const std::filesystem::path& from, const std::filesystem::path& to,
                     const SpacePatience& patience = {});
// The two names change places in one moment. False: the file system cannot do that. Waits as make_folders does.
[[nodiscard]] bool exchange_in_place(const std::filesystem::path& one, const std::filesystem::path& other,
                                     const SpacePatience& patience = {});

// Writes a small file whole or not at all, whatever happens and whoever else does the same: under a name of this
// process first. When it returns, it is on the drive. Waits as make_folders does.
void replace_file(const std::filesystem::path& file, std::string_view text, const SpacePatience& patience = {});

}  // namespace sluice::train
