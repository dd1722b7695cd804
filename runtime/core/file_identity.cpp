#include "runtime/core/file_identity.h"

#include <sys/stat.h>

namespace sluice {

bool leads_to(const std::filesystem::path& path, int fd) {
  struct stat named {
  }, opened{};
  return stat(path.c_str(), &named) == 0 && fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino &&
         named.st_dev == opened.st_dev;
}

}  // namespace sluice
