#include "runtime/train/durable_folders.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& folder, const char* what, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  throw RunError({full ? ErrorCode::no_space : ErrorCode::io,
                  folder.string() + ": " + what + ": " + std::strerror(error),
                  full ? "free space on that file system" : "check the folder's permissions and the drive"});
}

}  // namespace

void sync_folder(const fs::path& folder) {
  const int fd = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail(folder, "open", errno);
  const int failed = fsync(fd) != 0 ? errno : 0;
  close(fd);
  if (failed != 0) fail(folder, "fsync", failed);
}

void sync_folders(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.is_directory() && !entry.is_symlink()) sync_folders(entry.path());
  sync_folder(folder);
}

void make_folders(const fs::path& folder) {
  if (folder.empty() || fs::is_directory(folder)) return;
  const fs::path parent = (folder.has_filename() ? folder : folder.parent_path()).parent_path();
  make_folders(parent);
  std::error_code failed;
  fs::create_directory(folder, failed);
  if (failed) fail(folder, "create", failed.value());
  sync_folder(parent);
}

}  // namespace sluice::train
