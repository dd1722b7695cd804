#include "runtime/core/durable_names.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace sluice {

namespace fs = std::filesystem;

int sync_names(const fs::path& folder) {
  const int fd = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int failed = fsync(fd) != 0 ? errno : 0;
  close(fd);
  return failed;
}

fs::path folder_around(const fs::path& folder) {
  return (folder.has_filename() ? folder : folder.parent_path()).parent_path();
}

std::vector<fs::path> missing_folders(fs::path folder) {
  std::vector<fs::path> missing;
  for (std::error_code ignored; !folder.empty() && !fs::is_directory(folder, ignored); folder = folder_around(folder))
    missing.push_back(folder);
  std::reverse(missing.begin(), missing.end());
  return missing;
}

}  // namespace sluice
