#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "runtime/core/result.h"
#include "runtime/train/doctor_checks.h"
#include "runtime/train/drive_endurance.h"
#include "runtime/train/swap_folders.h"
#include "swap/drive_kind.h"
#include "swap/host_slab.h"
#include "swap/swap_engine.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr Bytes kTrialBytes = MiB(4);

// For a shell, whatever is in it.
std::string quoted(const fs::path& path) {
  std::string text = "'";
  for (const char c : path.string()) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

// Bytes through the engine that a job uses, in a swap folder of its own: written and read back, which the engine holds
// against their checksum. Throws SetupError and RunError.
void write_and_read_back(const fs::path& folder, const Config* job) {
  swap::SwapOptions options;
  if (job != nullptr) options = swap_options(*job);
  options.nvme_paths = {folder};
  options.patience = {};
  options.file_name = "doctor";
  options.queue_depth = 4;
  const swap::HostSlab slab(kTrialBytes * 2);
  const auto written = slab.memory().first(static_cast<size_t>(kTrialBytes.count));
  const auto read = slab.memory().last(written.size());
  for (size_t i = 0; i < written.size(); ++i) written[i] = static_cast<std::byte>(i * 2654435761u >> 24);
  swap::SwapEngine engine(options);
  const swap::ExtentId extent = engine.create_extent(kTrialBytes, "a trial");
  const auto wait = [&] {
    for (;;)
      for (const swap::Completion& completion : engine.wait(std::chrono::seconds(1))) {
        if (!completion.result.ok()) throw RunError(completion.result.error());
        return;
      }
  };
  engine.write(extent, written, 1);
  wait();
  engine.read(extent, read, 2);
  wait();
}

std::string drive_text(const swap::DriveKind& kind) {
  std::string models;
  for (const std::string& model : kind.models) models += (models.empty() ? "" : ", ") + model;
  if (!models.empty()) return models;
  return kind.virtual_disk ? "a virtual disk: its host knows the model" : "the kernel names no model";
}

Finding examine_drive(const fs::path& path, const swap::DriveKind& kind) {
  Finding drive{"drive", path.string(), Verdict::good, drive_text(kind), "", ""};
  if (const std::optional<double> rated = rated_terabytes(kind.models))
    drive.found += ", rated for " + std::to_string(static_cast<int64_t>(*rated)) + " TB written";
  else
    drive.found += "; rated endurance unknown (rated_tbw in a machine file tells `sluice plan`)";
  if (kind.spinning && !kind.virtual_disk) {
    drive.verdict = Verdict::limited;
    drive.costs = "a spinning disk, says the kernel: streaming from it binds every step";
    drive.fix = "offload.nvme_path=FOLDER_ON_AN_NVME_DRIVE";
  }
  return drive;
}

Finding examine_direct(const fs::path& path, const swap::DriveKind& kind) {
  Finding direct{"o_direct", path.string(), Verdict::good, "", "", ""};
  direct.found = to_string(kTrialBytes) + " written and read back " +
                 (kind.page_cache ? "through the page cache" : "past the page cache");
  if (!kind.page_cache) return direct;
  direct.verdict = Verdict::limited;
  direct.costs = kind.file_system == "tmpfs" || kind.file_system == "ramfs"
                     ? "it is memory (" + kind.file_system + "): what is swapped there is in RAM still"
                     : kind.file_system + " refuses O_DIRECT: pages are copied once more, and crowd out others";
  direct.fix = "offload.nvme_path=FOLDER_ON_EXT4_OR_XFS";
  return direct;
}

Finding refused(const fs::path& path, const Error& error) {
  Finding finding{"path", path.string(), Verdict::missing, error.message, "nothing can be swapped there", error.hint};
  const bool unwritable = error.message.find(std::strerror(EACCES)) != std::string::npos ||
                          error.message.find(std::strerror(EPERM)) != std::string::npos;
  if (unwritable) finding.fix = "sudo install -d -o \"$USER\" " + quoted(path);
  return finding;
}

}  // namespace

std::vector<Finding> examine_path(const fs::path& path, const Config* job) {
  const fs::path there = nearest_existing(path);
  try {
    const swap::DriveKind kind = swap::inspect_drive(there);
    write_and_read_back(there, job);
    Finding space{"path", path.string(), Verdict::good, "", "", ""};
    space.found = kind.file_system + ", " + to_string(kind.free) + " free of " + to_string(kind.size);
    std::error_code failed;
    if (!fs::exists(path, failed)) space.found += "; not there yet: a job makes it";
    return {space, examine_direct(path, kind), examine_drive(path, kind)};
  } catch (const SluiceException& error) {
    return {refused(path, error.error())};
  }
}

}  // namespace sluice::train
