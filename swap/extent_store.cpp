#include "swap/extent_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/core/durable_names.h"
#include "runtime/core/file_identity.h"
#include "runtime/core/result.h"

namespace sluice::swap {
namespace {

constexpr const char* kFolder = "sluice-swap";
constexpr int kOwnersMax = 1000;  // that go, one after the other, while we come

std::string owner_of(int lock_fd) {
  char text[32] = {};
  const ssize_t got = pread(lock_fd, text, sizeof text - 1, 0);
  return got > 0 ? "process " + std::string(text) : "another process";
}

// With those around it, each safe in the one around it. Where one cannot be made, the first use of `folder` says so.
void make_folders(const std::filesystem::path& folder) {
  for (const std::filesystem::path& each : missing_folders(folder)) {
    std::error_code refused;
    std::filesystem::create_directory(each, refused);
    if (refused) return;
    const std::filesystem::path around = folder_around(each);
    if (const int failed = sync_names(around); failed != 0)
      throw SetupError(
          "cannot sync " + around.string() + ", where " + each.string() + " is new: " + std::strerror(failed),
          "check the folder's permissions and the drive");
  }
}

// One that is there already may be a trap of another user's: a link, or a folder that they own.
void make_private(const std::filesystem::path& folder) {
  if (mkdir(folder.c_str(), 0700) == 0) return;
  if (errno != EEXIST)
    throw SetupError("cannot create " + folder.string() + ": " + std::strerror(errno),
                     "give offload.nvme_path a folder that you may write to");
  struct stat about {};
  const bool ours = lstat(folder.c_str(), &about) == 0 && S_ISDIR(about.st_mode) && about.st_uid == geteuid();
  if (ours && chmod(folder.c_str(), 0700) == 0) return;
  if (errno == ENOENT) return;  // its owner went meanwhile, and took it along
  throw SetupError(folder.string() + " is no folder of your own",
                   "remove it, or give this job another offload.nvme_path");
}

SetupError in_use(const std::filesystem::path& folder, const std::string& owner) {
  return {folder.string() + " is in use by " + owner, "wait for it, or give this job another offload.nvme_path"};
}

// -1: its owner went meanwhile, and took the file along. Who locks that one locks nothing.
int lock_owner_file(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "owner";
  const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0 && errno == ENOENT) return -1;
  if (fd < 0)
    throw SetupError("cannot create " + file.string() + ": " + std::strerror(errno),
                     "give offload.nvme_path a folder that you may write to");
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const std::string owner = owner_of(fd);
    close(fd);
    throw in_use(folder, owner);
  }
  if (leads_to(file, fd)) return fd;
  close(fd);
  return -1;
}

void write_owner(int lock_fd, const std::filesystem::path& folder) {
  const std::string pid = std::to_string(getpid());
  if (ftruncate(lock_fd, 0) == 0 && pwrite(lock_fd, pid.data(), pid.size(), 0) == static_cast<ssize_t>(pid.size()))
    return;
  const std::string why = std::strerror(errno);
  close(lock_fd);
  throw SetupError("cannot write " + (folder / "owner").string() + ": " + why, "free space on that file system");
}

int make_and_lock(const std::filesystem::path& folder) {
  for (int tries = 0; tries < kOwnersMax; ++tries) {
    make_private(folder);
    const int fd = lock_owner_file(folder);
    if (fd < 0) continue;
    write_owner(fd, folder);
    return fd;
  }
  throw in_use(folder, "other processes, one after the other");
}

}  // namespace

std::filesystem::path SwapFolder::in(const std::filesystem::path& nvme_path) { return nvme_path / kFolder; }

SwapFolder::SwapFolder(const std::filesystem::path& nvme_path) : folder_(in(nvme_path)) {
  make_folders(nvme_path);
  lock_fd_ = make_and_lock(folder_);
}

SwapFolder::~SwapFolder() {
  std::error_code ignored;
  // Where somebody has removed the folder, what is there is the next owner's.
  if (leads_to(folder_ / "owner", lock_fd_)) std::filesystem::remove(folder_ / "owner", ignored);
  std::filesystem::remove(folder_, ignored);
  close(lock_fd_);
}

SwapFile::SwapFile(const std::filesystem::path& nvme_path, const std::string& name, OldFile old_file)
    : folder_(nvme_path), file_(folder_.path() / name) {
  std::error_code failed;
  if (old_file != OldFile::replace && std::filesystem::exists(file_, failed)) {
    open_old(old_file);
    keeps_ = true;
  } else {
    // Left by an owner that died: we hold its lock now.
    std::filesystem::remove(file_, failed);
    open_new();
  }
}

void SwapFile::open_new() {
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  fd_ = open(file_.c_str(), kFlags | O_DIRECT, 0600);
  if (fd_ < 0 && errno == EINVAL) {
    std::error_code ignored;
    std::filesystem::remove(file_, ignored);
    fd_ = open(file_.c_str(), kFlags, 0600);
    direct_ = false;
  }
  if (fd_ < 0)
    throw SetupError("cannot create " + file_.string() + ": " + std::strerror(errno),
                     "give offload.nvme_path a folder that you may write to");
}

void SwapFile::open_old(OldFile old_file) {
  constexpr int kFlags = O_RDWR | O_NOFOLLOW | O_CLOEXEC;
  fd_ = open(file_.c_str(), kFlags | O_DIRECT);
  if (fd_ < 0 && errno == EINVAL) {
    fd_ = open(file_.c_str(), kFlags);
    direct_ = false;
  }
  struct stat about {};
  std::string refusal;
  if (fd_ < 0 || fstat(fd_, &about) != 0)
    refusal = std::strerror(errno);
  else if (!S_ISREG(about.st_mode))
    refusal = "it is no plain file";
  if (!refusal.empty()) {
    if (fd_ >= 0) close(fd_);
    throw SetupError("cannot open " + file_.string() + ", which checkpoints name: " + refusal,
                     "check its permissions and the drive");
  }
  end_ = round_down(about.st_size, 4096);
  // What the last owner gave back to the drive.
  const int refused = end_ == 0 || old_file == OldFile::shrink ? 0 : posix_fallocate(fd_, 0, end_);
  if (refused == 0) return;
  close(fd_);
  throw SetupError(
      {refused == ENOSPC ? ErrorCode::no_space : ErrorCode::io,
       "cannot reserve the " + to_string(Bytes{end_}) + " of " + file_.string() + " again: " + std::strerror(refused),
       "free space there, or give offload.nvme_path a larger drive"});
}

SwapFile::~SwapFile() {
  if (keeps_) {
    for (const auto& [offset, bytes] : without_)
      // Where the file system cannot, the space stays taken: no harm but that.
      if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes) != 0) break;
  }
  close(fd_);
  std::error_code ignored;
  if (!keeps_) std::filesystem::remove(file_, ignored);
}

void SwapFile::keep(bool keeps, std::map<int64_t, int64_t> without) {
  keeps_ = keeps;
  without_ = std::move(without);
}

int SwapFile::sync() {
  if (fdatasync(fd_) != 0) return errno;
  if (!leads_to(file_, fd_)) return ENOENT;
  if (named_) return 0;
  for (const std::filesystem::path& folder : {folder_.path(), folder_.path().parent_path()})
    if (const int failed = sync_names(folder); failed != 0) return failed;
  named_ = true;
  return 0;
}

int64_t SwapFile::reserve(int64_t bytes, std::string_view tag) {
  const int64_t offset = end_;
  struct statvfs space {};
  const bool known = fstatvfs(fd_, &space) == 0 && space.f_blocks > 0;  // some do not say
  const auto free_bytes = static_cast<int64_t>(space.f_bavail * space.f_frsize);
  // Some file systems hand out all that they have before they refuse: others would meet a full drive meanwhile.
  const bool hopeless = known && bytes > free_bytes;
  const int refused = hopeless ? ENOSPC : posix_fallocate(fd_, offset, bytes);
  if (refused != 0)
    throw SetupError({refused == ENOSPC ? ErrorCode::no_space : ErrorCode::io,
                      "cannot reserve " + to_string(Bytes{bytes}) + " for " + std::string(tag) + " at " +
                          to_string(Bytes{offset}) + " of " + file_.string() + ": " + std::strerror(refused) +
                          (known ? " (" + to_string(Bytes{free_bytes}) + " are free)" : ""),
                      "free space there, or give offload.nvme_path a larger drive"});
  end_ += bytes;
  return offset;
}

}  // namespace sluice::swap
