#include "tests/crash/disk_calls.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <utility>

namespace sluice::crash {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kAtPosition = -1;

// The kernel's own link to what a descriptor of the program is.
fs::path link_of(const SystemCall& call, size_t argument) {
  return "/proc/" + std::to_string(call.thread) + "/fd/" + std::to_string(static_cast<int>(call.arguments[argument]));
}

fs::path named(const SystemCall& call, size_t path_argument) {
  return fs::path("/proc/" + std::to_string(call.thread) + "/cwd") / call.text(path_argument);
}

fs::path named_at(const SystemCall& call, size_t folder_argument) {
  if (static_cast<int>(call.arguments[folder_argument]) == AT_FDCWD) return named(call, folder_argument + 1);
  return link_of(call, folder_argument) / call.text(folder_argument + 1);
}

// "a/b/" names what "a/b" names.
fs::path plain(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

std::string shown(const fs::path& path) {
  std::error_code unknown;
  const fs::path folder = fs::canonical(path.parent_path(), unknown);
  return (unknown ? path : folder / path.filename()).string();
}

int64_t position_of(const SystemCall& call, size_t fd_argument) {
  const std::string fd = std::to_string(static_cast<int>(call.arguments[fd_argument]));
  std::ifstream info("/proc/" + std::to_string(call.thread) + "/fdinfo/" + fd);
  std::string name, flags;
  int64_t position = 0;
  info >> name >> position >> name >> flags;
  if ((std::stoll(flags, nullptr, 8) & O_APPEND) == 0) return position;
  return static_cast<int64_t>(fs::file_size(link_of(call, fd_argument)));
}

int64_t bytes_of(const SystemCall& call) {
  std::vector<iovec> parts(call.arguments[2]);
  if (!parts.empty()) call.read(call.arguments[1], parts.data(), parts.size() * sizeof(iovec));
  int64_t bytes = 0;
  for (const iovec& part : parts) bytes += static_cast<int64_t>(part.iov_len);
  return bytes;
}

int64_t offset_at(const SystemCall& call, size_t pointer_argument) {
  int64_t offset = kAtPosition;
  if (call.arguments[pointer_argument] != 0) call.read(call.arguments[pointer_argument], &offset, sizeof offset);
  return offset;
}

std::optional<NodeId> file_at(const VolatileDisk& disk, const fs::path& link) {
  struct stat status {};
  return stat(link.c_str(), &status) == 0 ? disk.node_of(status) : std::nullopt;
}

}  // namespace

std::string DiskCalls::starts(const SystemCall& call) {
  End end;
  const std::string text = begin(call, end);
  if (end) ends_[call.thread] = std::move(end);
  return text;
}

void DiskCalls::ends(const SystemCall& call, int64_t result) {
  const auto found = ends_.find(call.thread);
  if (found == ends_.end()) return;
  const End end = std::move(found->second);
  ends_.erase(found);
  end(result);
}

std::string DiskCalls::begin(const SystemCall& call, End& end) {
  const auto argument = [&](size_t i) { return static_cast<int64_t>(call.arguments[i]); };
  switch (call.number) {
    case SYS_write:
      return begin_write(call, 0, kAtPosition, argument(2), end);
    case SYS_pwrite64:
      return begin_write(call, 0, argument(3), argument(2), end);
    case SYS_writev:
      return begin_write(call, 0, kAtPosition, bytes_of(call), end);
    case SYS_pwritev:
    case SYS_pwritev2:
      return begin_write(call, 0, argument(3), bytes_of(call), end);
    case SYS_sendfile:
      return begin_write(call, 0, kAtPosition, argument(3), end);
    case SYS_splice:
      return begin_write(call, 2, offset_at(call, 3), argument(4), end);
    case SYS_copy_file_range:
      return begin_write(call, 2, offset_at(call, 3), argument(4), end);
    case SYS_fallocate:
      if (argument(1) == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
        return begin_write(call, 0, argument(2), argument(3), end);
      if (argument(1) != 0 && file_at(disk_, link_of(call, 0)))
        throw std::runtime_error("fallocate with flags is not modelled");
      return begin_write(call, 0, argument(2), 0, end);
    case SYS_ftruncate:
      return begin_resize(link_of(call, 0), argument(1), end);
    case SYS_truncate:
      return begin_resize(named(call, 0), argument(1), end);
    case SYS_fsync:
    case SYS_fdatasync:
      return begin_sync(call, end);
    case SYS_sync:
    case SYS_syncfs:
      end = [this](int64_t) { disk_.all_synced(); };
      return "sync";
    case SYS_mmap:
      if ((call.arguments[3] & MAP_SHARED) != 0 && (call.arguments[3] & MAP_ANONYMOUS) == 0 &&
          file_at(disk_, link_of(call, 4)))
        throw std::runtime_error("writing through a mapped file is not modelled: " + shown(link_of(call, 4)));
      return {};
    case SYS_openat:
      return begin_open(named_at(call, 0), call.arguments[2], end);
    case SYS_unlinkat:
      return begin_remove(plain(named_at(call, 0)), end);
    case SYS_mkdirat:
      return begin_make_folder(plain(named_at(call, 0)), end);
    case SYS_renameat2:
      if (call.arguments[4] == RENAME_EXCHANGE)
        return begin_exchange(plain(named_at(call, 0)), plain(named_at(call, 2)), end);
      if (call.arguments[4] != 0) throw std::runtime_error("renameat2 with other flags is not modelled");
      return begin_rename(plain(named_at(call, 0)), plain(named_at(call, 2)), end);
    case SYS_linkat:
      return begin_link(named_at(call, 0), named_at(call, 2), end);
#ifdef SYS_renameat
    case SYS_renameat:
      return begin_rename(plain(named_at(call, 0)), plain(named_at(call, 2)), end);
#endif
#ifdef SYS_rename
    case SYS_open:
      return begin_open(named(call, 0), call.arguments[1], end);
    case SYS_creat:
      return begin_open(named(call, 0), O_CREAT | O_TRUNC, end);
    case SYS_unlink:
    case SYS_rmdir:
      return begin_remove(plain(named(call, 0)), end);
    case SYS_mkdir:
      return begin_make_folder(plain(named(call, 0)), end);
    case SYS_rename:
      return begin_rename(plain(named(call, 0)), plain(named(call, 1)), end);
    case SYS_link:
      return begin_link(named(call, 0), named(call, 1), end);
#endif
    default:
      return {};  // symbolic links: nothing of ours makes one
  }
}

std::string DiskCalls::begin_write(const SystemCall& call, size_t fd, int64_t offset, int64_t bytes, End& end) {
  const fs::path link = link_of(call, fd);
  const std::optional<NodeId> file = file_at(disk_, link);
  if (!file || disk_.is_folder(*file)) return {};
  if (offset == kAtPosition) offset = position_of(call, fd);
  const int ours = disk_.open_file(*file);
  const uint64_t ticket = disk_.journal(*file).begin_write(ours, offset, bytes);
  close(ours);
  end = [this, id = *file, ticket](int64_t) { disk_.journal(id).end(ticket); };
  return "write " + fs::read_symlink(link).string() + " at " + std::to_string(offset) + ", " + std::to_string(bytes);
}

std::string DiskCalls::begin_resize(const fs::path& path, int64_t bytes, End& end) {
  const std::optional<NodeId> file = file_at(disk_, path);
  if (!file || disk_.is_folder(*file)) return {};
  const int ours = disk_.open_file(*file);
  const uint64_t ticket = disk_.journal(*file).begin_resize(ours, bytes);
  close(ours);
  end = [this, id = *file, ticket](int64_t) { disk_.journal(id).end(ticket); };
  return "resize " + fs::canonical(path).string() + " to " + std::to_string(bytes);
}

std::string DiskCalls::begin_sync(const SystemCall& call, End& end) {
  const fs::path link = link_of(call, 0);
  const std::optional<NodeId> node = file_at(disk_, link);
  if (!node) return {};
  if (disk_.is_folder(*node)) {
    end = [this, id = *node, before = disk_.changes()](int64_t result) {
      if (result == 0) disk_.folder_synced(id, before);
    };
  } else {
    end = [this, id = *node, until = disk_.journal(*node).moment()](int64_t result) {
      if (result == 0) disk_.journal(id).synced(until);
    };
  }
  return "sync " + fs::read_symlink(link).string();
}

std::string DiskCalls::begin_open(const fs::path& path, uint64_t flags, End& end) {
  if (!disk_.folder_of(path)) return {};
  if ((flags & O_DSYNC) != 0) throw std::runtime_error("O_SYNC and O_DSYNC are not modelled");
  if (disk_.node_at(path)) return (flags & O_TRUNC) != 0 ? begin_resize(path, 0, end) : "";
  if ((flags & O_CREAT) == 0) return {};
  end = [this, path](int64_t result) {
    if (result >= 0 && !disk_.node_at(path)) disk_.created(path);
  };
  return "create " + shown(path);
}

std::string DiskCalls::begin_make_folder(const fs::path& path, End& end) {
  if (!disk_.folder_of(path) || disk_.node_at(path)) return {};
  end = [this, path](int64_t result) {
    if (result == 0) disk_.created(path);
  };
  return "mkdir " + shown(path);
}

std::string DiskCalls::begin_rename(const fs::path& from, const fs::path& to, End& end) {
  const std::optional<NodeId> node = disk_.node_at(from);
  if (!node && !disk_.folder_of(to)) return {};
  if (!node || !disk_.folder_of(to))
    throw std::runtime_error("a rename into or out of the watched folders is not modelled: " + shown(to));
  if (disk_.node_at(to) == node) return {};
  end = [this, from, to, id = *node](int64_t result) {
    if (result == 0) disk_.renamed(from, to, id);
  };
  return "rename " + shown(from) + " to " + shown(to);
}

std::string DiskCalls::begin_exchange(const fs::path& one, const fs::path& other, End& end) {
  const std::optional<NodeId> first = disk_.node_at(one), second = disk_.node_at(other);
  if (!first && !second) return {};
  if (!first || !second)
    throw std::runtime_error("an exchange with what is not watched is not modelled: " + shown(other));
  end = [this, one, other, ids = std::pair(*first, *second)](int64_t result) {
    if (result == 0) disk_.exchanged(one, other, ids.first, ids.second);
  };
  return "exchange " + shown(one) + " with " + shown(other);
}

std::string DiskCalls::begin_link(const fs::path& from, const fs::path& to, End& end) {
  const std::optional<NodeId> node = disk_.node_at(from);
  if (!node && !disk_.folder_of(to)) return {};
  if (!node || !disk_.folder_of(to))
    throw std::runtime_error("a link into or out of the watched folders is not modelled: " + shown(to));
  end = [this, to, id = *node](int64_t result) {
    if (result == 0) disk_.linked(to, id);
  };
  return "link " + shown(from) + " to " + shown(to);
}

std::string DiskCalls::begin_remove(const fs::path& path, End& end) {
  const std::optional<NodeId> node = disk_.node_at(path);
  if (!node) return {};
  end = [this, path, id = *node](int64_t result) {
    if (result == 0) disk_.removed(path, id);
  };
  return "remove " + shown(path);
}

}  // namespace sluice::crash
