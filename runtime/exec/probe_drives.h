// What drives do: each nvme_path alone, by request size and depth, then all of them striped.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "runtime/exec/probe_loads.h"
#include "runtime/plan/machine.h"
#include "swap/drive_kind.h"

namespace sluice::exec {

enum class ProbeLength { full, quick };

// Before anything is measured. Throws SetupError, with nothing left behind: as swap::inspect_drive, and without space.
swap::DriveKind inspect_drive_for_probe(const std::filesystem::path& folder, ProbeLength length);

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
