// Files that are on the drive when the call returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "runtime/train/checksums.h"

namespace sluice::train {

// RunError for an errno of that file.
[[noreturn]] void fail_file(const std::filesystem::path& path, const char* what, int error);
// Throws RunError.
int open_new_file(const std::filesystem::path& path);
void write_all(int fd, const std::filesystem::path& path, int64_t offset, std::span<const std::byte> bytes);

// Writes a whole small file and syncs it. Throws RunError.
void write_file(const std::filesystem::path& path, std::string_view text);
// The same with another file's content.
FileSums write_copy(const std::filesystem::path& from, const std::filesystem::path& to);
// Makes renames inside the folder durable. Throws RunError.
void sync_folder(const std::filesystem::path& folder);

}  // namespace sluice::train
