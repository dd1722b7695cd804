// What drives do: each nvme_path alone, by request size and depth, then all of them striped.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "runtime/exec/probe_loads.h"
#include "runtime/plan/machine.h"

namespace sluice::exec {

enum class ProbeLength { full, quick };

// What a folder is on, asked before anything is measured.
struct DriveKind {
  std::string file_system;  // "ext4"
  std::string device;       // "254:0": block device, or what stands for it
  Bytes size;               // of the file system
  bool page_cache = false;  // memory, or O_DIRECT refused
  bool spinning = false;    // says the kernel
  bool virtual_disk = false;
};

// Throws SetupError, with nothing left behind: no folder, not writable, read-only, full.
DriveKind inspect_drive(const std::filesystem::path& folder, ProbeLength length);
// What a user should know of it, a line each.
std::vector<std::string> remarks(const std::filesystem::path& folder, const DriveKind& kind);

// Transfers of these use at most this much host memory, 4096-byte aligned.
inline constexpr Bytes kDriveProbeBytes = MiB(512);

// Measures in about `seconds`. Throws SetupError (no space) and RunError (the drive fails).
std::vector<plan::DriveRate> probe_drive(const std::filesystem::path& folder, std::span<std::byte> memory,
                                         ProbeLength length, double seconds);

// All paths striped: a swap file on each, with extents of one request size, all written.
class StripedDrives {
 public:
  StripedDrives(const std::vector<std::filesystem::path>& folders, int64_t request_bytes, int depth_per_drive,
                std::span<std::byte> memory);
  // Long enough, in about `seconds`, for what a drive's cache hides to show.
  plan::DriveRate sustained(double seconds);
  std::unique_ptr<DriveLoad> load(DriveMode mode);

 private:
  swap::SwapEngine engine_;
  int64_t request_bytes_;
  int depth_, drives_;
  std::span<std::byte> memory_;
  std::vector<swap::ExtentId> extents_;
};

}  // namespace sluice::exec
