#include "runtime/train/scratch_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = ".sluice-scratch-";

fs::path folder_around(const fs::path& path) {
  fs::path folder = fs::absolute(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  do folder = folder.parent_path();
  while (!fs::is_directory(folder) && folder.has_relative_path());
  return folder;
}

bool is_in_use(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return true;
  const bool locked = ::flock(fd, LOCK_EX | LOCK_NB) != 0;
  ::close(fd);
  return locked;
}

void remove_left_over(const fs::path& around) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(around, ignored))
    if (entry.path().filename().string().starts_with(kPrefix) && entry.is_directory(ignored) &&
        !is_in_use(entry.path()))
      fs::remove_all(entry.path(), ignored);
}

fs::path new_folder(const fs::path& around) {
  std::string name = (around / (std::string(kPrefix) + "XXXXXX")).string();
  if (::mkdtemp(name.data()) == nullptr)
    throw SetupError(around.string() + ": cannot make a folder in it: " + std::strerror(errno),
                     "profiling writes its swap files beside output_dir: make that folder writable, or set output_dir");
  return name;
}

}  // namespace

ScratchFolder::ScratchFolder(const fs::path& beside)
    : path_((remove_left_over(folder_around(beside)), new_folder(folder_around(beside)))), lock_(path_) {
  lock_.make_and_lock();
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace sluice::train
