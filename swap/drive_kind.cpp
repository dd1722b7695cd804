#include "swap/drive_kind.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "runtime/core/result.h"

namespace sluice::swap {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOtherFolder = "give --nvme (a job: offload.nvme_path) a folder that you may write to";

std::string numbers_of(dev_t device) { return std::to_string(major(device)) + ":" + std::to_string(minor(device)); }

struct Mount {
  std::string type = "unknown";
  std::string source;  // "/dev/nvme0n1p2"
};

// The last mount that holds the device. Subvolumes (btrfs) have numbers that no mount has: the mount that is nearest
// above the folder.
Mount mount_of(const std::string& device, const fs::path& folder) {
  std::ifstream mounts("/proc/self/mountinfo");
  const std::string whole = fs::weakly_canonical(folder).string() + "/";
  Mount by_device, by_place;
  size_t nearest = 0;
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string id, parent, numbers, root, place;
    words >> id >> parent >> numbers >> root >> place;
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    Mount mount;
    std::istringstream(line.substr(dash + 3)) >> mount.type >> mount.source;
    if (numbers == device) by_device = mount;
    if (place.back() != '/') place += '/';
    if (whole.starts_with(place) && place.size() >= nearest) nearest = place.size(), by_place = mount;
  }
  return by_device.source.empty() ? by_place : by_device;
}

// In sysfs. Of a file system without a block device of its own that names one as its source (btrfs), that one.
fs::path block_device_of(const std::string& device, const std::string& source) {
  struct stat about {};
  const bool named = device.starts_with("0:") && source.starts_with("/dev/") && stat(source.c_str(), &about) == 0 &&
                     S_ISBLK(about.st_mode);
  return "/sys/dev/block/" + (named ? numbers_of(about.st_rdev) : device);
}

// Of the disk, or of the disk that a partition is on.
bool says_spinning(const fs::path& block_device) {
  for (const char* queue : {"queue", "../queue"}) {
    std::ifstream file(block_device / queue / "rotational");
    if (char digit = '0'; file >> digit) return digit == '1';
  }
  return false;
}

bool is_virtual(const fs::path& block_device) {
  std::error_code none;
  const std::string real = fs::canonical(block_device, none).string();
  return real.find("/virtio") != std::string::npos || real.find("/devices/virtual/") != std::string::npos;
}

// Creates a file as the swap engine will, and removes it: whether that is allowed, and past the page cache.
bool takes_direct(const fs::path& folder) {
  std::string file = (folder / ".sluice-probe-XXXXXX").string();
  const int plain = mkostemp(file.data(), O_CLOEXEC);
  if (plain < 0)
    throw SetupError("cannot write to " + folder.string() + ": " + std::strerror(errno),
                     errno == EROFS ? "mount it for writing, or give --nvme another folder" : kOtherFolder);
  const int direct = open(file.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  const bool taken = direct >= 0;
  if (taken) close(direct);
  close(plain);
  unlink(file.c_str());
  return taken;
}

// What SCSI pads with spaces.
std::string trimmed(std::string text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\n'; };
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), is_space));
  while (!text.empty() && is_space(text.back())) text.pop_back();
  return text;
}

}  // namespace

std::vector<std::string> drive_models(const fs::path& block_device) {
  std::error_code none;
  const fs::path device = fs::canonical(block_device, none);
  if (none) return {};
  const fs::path disk = fs::exists(device / "partition", none) ? device.parent_path() : device;
  std::vector<std::string> models;
  for (const fs::directory_entry& below : fs::directory_iterator(disk / "slaves", none))
    for (std::string& model : drive_models(below.path()))
      if (std::find(models.begin(), models.end(), model) == models.end()) models.push_back(std::move(model));
  std::ifstream file(disk / "device" / "model");
  if (std::string line; std::getline(file, line) && !trimmed(line).empty()) models.push_back(trimmed(line));
  std::sort(models.begin(), models.end());
  return models;
}

DriveKind inspect_drive(const fs::path& folder) {
  struct stat about {};
  if (stat(folder.c_str(), &about) != 0)
    throw SetupError(folder.string() + ": " + std::strerror(errno), "give --nvme a folder that exists");
  if (!S_ISDIR(about.st_mode))
    throw SetupError(folder.string() + " is not a folder", "give --nvme a folder on the drive");
  struct statvfs space {};
  if (statvfs(folder.c_str(), &space) != 0)
    throw SetupError(folder.string() + ": " + std::strerror(errno), "give --nvme another folder");
  DriveKind kind;
  kind.device = numbers_of(about.st_dev);
  const Mount mount = mount_of(kind.device, folder);
  kind.file_system = mount.type;
  kind.size = Bytes{static_cast<int64_t>(space.f_blocks * space.f_frsize)};
  kind.free = Bytes{static_cast<int64_t>(space.f_bavail * space.f_frsize)};
  kind.page_cache = !takes_direct(folder) || kind.file_system == "tmpfs" || kind.file_system == "ramfs";
  const fs::path block = block_device_of(kind.device, mount.source);
  kind.spinning = says_spinning(block);
  kind.virtual_disk = is_virtual(block);
  kind.models = drive_models(block);
  return kind;
}

std::vector<std::string> remarks(const fs::path& folder, const DriveKind& kind) {
  std::vector<std::string> lines;
  if (kind.file_system == "tmpfs" || kind.file_system == "ramfs") {
    lines.push_back(folder.string() + " is memory (" + kind.file_system +
                    "), not a drive: what is measured is the page cache; give --nvme a folder on an NVMe drive");
  } else if (kind.page_cache) {
    lines.push_back(folder.string() + " (" + kind.file_system +
                    ") refuses O_DIRECT: it is measured through the page cache and may look faster than it stays; " +
                    "use ext4 or xfs");
  }
  if (kind.spinning)
    lines.push_back(folder.string() + " is on a spinning disk, says the kernel" +
                    (kind.virtual_disk ? " (of a virtual disk, which need not be true)" : "") +
                    ": streaming from it will bind every step; use an NVMe drive");
  return lines;
}

}  // namespace sluice::swap
