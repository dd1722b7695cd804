#include "runtime/train/partial_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "runtime/core/file_identity.h"
#include "runtime/core/result.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/output_file.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPartial = ".partial-";

int open_folder(const fs::path& folder) {
  return open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

// The lock is held until it is gone: who has just made a folder of that name sees that this one is not theirs.
void remove_unless_held(const fs::path& folder) {
  const int fd = open_folder(folder);
  if (fd < 0) return;
  std::error_code ignored;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0 && leads_to(folder, fd)) fs::remove_all(folder, ignored);
  close(fd);
}

}  // namespace

void remove_left_over(const fs::path& around, std::string_view prefix) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(around, ignored))
    if (entry.path().filename().string().starts_with(prefix)) remove_unless_held(entry.path());
}

PartialFolder::PartialFolder(const fs::path& whole) : whole_(fs::absolute(whole)) {
  const std::string prefix = whole_.filename().string() + std::string(kPartial);
  remove_left_over(whole_.parent_path(), prefix);
  constexpr int kMakersMost = 1000;
  for (int number = 1;; ++number) {
    path_ = whole_.parent_path() / (prefix + std::to_string(number));
    if (make_and_lock()) return;
    if (number == kMakersMost)
      throw RunError({ErrorCode::io, "no folder can be made and locked beside " + whole_.string(),
                      "remove what begins with " + prefix + " there"});
  }
}

PartialFolder::~PartialFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
  close(fd_);
}

// False: somebody holds a folder of that name, or has taken this one for left over.
bool PartialFolder::make_and_lock() {
  std::error_code refused;
  if (!fs::create_directory(path_, refused)) {
    if (refused) throw_file_error(path_, "create", refused.value());
    return false;
  }
  fd_ = open_folder(path_);
  if (fd_ < 0 && errno == ENOENT) return false;
  if (fd_ < 0) throw_file_error(path_, "open", errno);
  // Where the file system knows no locks, nobody can take it for left over either.
  const bool held = flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
  if (held && leads_to(path_, fd_)) return true;
  close(fd_);
  return false;
}

void PartialFolder::publish() {
  std::error_code failed;
  fs::rename(path_, whole_, failed);
  if (failed && fs::exists(whole_)) return;
  if (failed)
    throw RunError({ErrorCode::io,
                    path_.string() + " cannot be renamed to " + whole_.string() + ": " + failed.message(),
                    "check the folder's permissions"});
  path_.clear();
  sync_folder(whole_.parent_path());
}

}  // namespace sluice::train
