#include "runtime/train/durable_folders.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "runtime/core/durable_names.h"
#include "runtime/core/result.h"
#include "runtime/train/output_file.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBlockBytes = 4096;  // a new folder, or a longer one, takes one of the file system's

// `act` sets its error.
template <class Act>
void with_room(const fs::path& file, const char* what, const SpacePatience& patience, const Act& act) {
  SpaceWait space(patience);
  for (std::error_code error; act(error), error; error.clear()) {
    if (!is_no_space(error.value())) throw_file_error(file, what, error.value());
    if (const std::optional<Error> refused = space.refused_then_wait(file, Bytes{kBlockBytes}))
      throw RunError(*refused);
  }
  space.made_room();
}

}  // namespace

void sync_folder(const fs::path& folder, const SpacePatience& patience) {
  const WatchedCall call(patience.watch.get(), "the sync of " + folder.string());
  const int failed = sync_names(folder);
  if (is_no_space(failed)) throw NoRoomAtSync(folder, Bytes{kBlockBytes}, failed);
  if (failed != 0) throw_file_error(folder, "fsync", failed);
}

void sync_folders(const fs::path& folder, const SpacePatience& patience) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.is_directory() && !entry.is_symlink()) sync_folders(entry.path(), patience);
  sync_folder(folder, patience);
}

void make_folders(const fs::path& folder, const SpacePatience& patience) {
  for (const fs::path& each : missing_folders(folder)) {
    with_room(each, "create", patience, [&](std::error_code& error) { fs::create_directory(each, error); });
    sync_folder(folder_around(each), patience);
  }
}

void rename_in_place(const fs::path& from, const fs::path& to, const SpacePatience& patience) {
  with_room(to, "rename", patience, [&](std::error_code& error) { fs::rename(from, to, error); });
}

bool exchange_in_place(const fs::path& one, const fs::path& other, const SpacePatience& patience) {
  bool can = true;
  with_room(other, "exchange", patience, [&](std::error_code& error) {
    if (renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0) return;
    can = errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP;
    if (can) error.assign(errno, std::generic_category());
  });
  return can;
}

void replace_file(const fs::path& file, std::string_view text, const SpacePatience& patience) {
  const fs::path fresh = file.string() + "." + std::to_string(getpid());
  try {
    until_synced(patience, [&] {
      write_file(fresh, text, patience);
      rename_in_place(fresh, file, patience);
      sync_folder(file.parent_path(), patience);
    });
  } catch (const RunError&) {
    std::error_code ignored;
    fs::remove(fresh, ignored);
    throw;
  }
}

}  // namespace sluice::train
