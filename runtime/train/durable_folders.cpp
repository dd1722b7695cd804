#include "runtime/train/durable_folders.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/core/result.h"
#include "runtime/train/output_file.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBlockBytes = 4096;  // a new folder takes one of the file system's

}  // namespace

void sync_folder(const fs::path& folder) {
  const int fd = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw_file_error(folder, "open", errno);
  const int failed = fsync(fd) != 0 ? errno : 0;
  close(fd);
  if (failed != 0) throw_file_error(folder, "fsync", failed);
}

void sync_folders(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.is_directory() && !entry.is_symlink()) sync_folders(entry.path());
  sync_folder(folder);
}

void make_folders(const fs::path& folder, const SpacePatience& patience) {
  if (folder.empty() || fs::is_directory(folder)) return;
  const fs::path parent = (folder.has_filename() ? folder : folder.parent_path()).parent_path();
  make_folders(parent, patience);
  SpaceWait space(patience);
  for (std::error_code error; fs::create_directory(folder, error), error; error.clear()) {
    if (!is_no_space(error.value())) throw_file_error(folder, "create", error.value());
    if (const std::optional<Error> refused = space.refused_then_wait(folder, Bytes{kBlockBytes}))
      throw RunError(*refused);
  }
  space.made_room();
  sync_folder(parent);
}

}  // namespace sluice::train
