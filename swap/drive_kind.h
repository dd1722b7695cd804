// What a folder lies on: its file system and its drive, as the kernel tells, asked before anything is written there.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/core/units.h"

namespace sluice::swap {

struct DriveKind {
  std::string file_system;  // "ext4"
  std::string device;       // "254:0": block device, or what stands for it
  Bytes size, free;         // of the file system, to this user
  bool page_cache = false;  // memory, or O_DIRECT refused
  bool spinning = false;    // says the kernel
  bool virtual_disk = false;
  std::vector<std::string> models;  // "Samsung SSD 990 PRO 2TB", of each drive below; none: the kernel does not say
};

// Throws SetupError, with nothing left behind: no folder, not writable, read-only.
DriveKind inspect_drive(const std::filesystem::path& folder);
// What a user should know of it, a line each.
std::vector<std::string> remarks(const std::filesystem::path& folder, const DriveKind& kind);

// Of a block device's folder in sysfs: of a disk, of the disk that a partition is on, of the drives below a volume.
std::vector<std::string> drive_models(const std::filesystem::path& block_device);

}  // namespace sluice::swap
