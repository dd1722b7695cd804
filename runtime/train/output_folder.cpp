#include "runtime/train/output_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "runtime/core/file_identity.h"
#include "runtime/core/result.h"
#include "runtime/train/durable_folders.h"

namespace sluice::train {
namespace {

// "00:1f:5120", as /proc/locks names a file. Empty when it cannot be asked.
std::string lock_name_of(int fd) {
  struct stat about {};
  if (fstat(fd, &about) != 0) return {};
  char name[64];
  std::snprintf(name, sizeof name, "%02x:%02x:%llu", major(about.st_dev), minor(about.st_dev),
                static_cast<unsigned long long>(about.st_ino));
  return name;
}

// "1: FLOCK  ADVISORY  WRITE 4711 00:1f:5120 0 EOF"
std::string owner_of(int fd) {
  const std::string wanted = lock_name_of(fd);
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    std::istringstream fields(line);
    std::string number, kind, advisory, access, process, file;
    fields >> number >> kind >> advisory >> access >> process >> file;
    if (kind == "FLOCK" && file == wanted) return "process " + process;
  }
  return "another process";
}

}  // namespace

OutputFolder::~OutputFolder() {
  if (fd_ >= 0) close(fd_);
}

void OutputFolder::lock_if_there() {
  if (fd_ >= 0) return;
  fd_ = open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd_ < 0 || flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  if (errno == EWOULDBLOCK)
    throw SetupError("output_dir " + folder_.string() + " is in use by " + owner_of(fd_),
                     "wait for it, or give this job another output_dir");
  std::fprintf(stderr, "note: output_dir %s cannot be locked (%s): start no second run there\n", folder_.c_str(),
               std::strerror(errno));
}

void OutputFolder::make_and_lock() {
  make_folders(folder_);
  lock_if_there();
}

bool OutputFolder::is_in_place() const { return fd_ < 0 || leads_to(folder_, fd_); }

void OutputFolder::check_in_place() const {
  if (is_in_place()) return;
  throw RunError({ErrorCode::io,
                  "output_dir " + folder_.string() +
                      " has gone, or is another folder now: it was removed, or its drive " + "was unmounted",
                  "bring the drive back"});
}

}  // namespace sluice::train
