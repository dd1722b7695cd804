#include "runtime/core/file_identity.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

namespace sluice {

bool leads_to(const std::filesystem::path& path, int fd) {
  struct stat named {
  }, opened{};
  return stat(path.c_str(), &named) == 0 && fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino &&
         named.st_dev == opened.st_dev;
}

OpenFolder::OpenFolder(std::filesystem::path folder)
    : folder_(std::move(folder)), fd_(open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

OpenFolder::~OpenFolder() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace sluice
