#include "runtime/train/durable_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "runtime/core/result.h"

namespace sluice::train {

void fail_file(const std::filesystem::path& path, const char* what, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  throw RunError({full ? ErrorCode::no_space : ErrorCode::io, path.string() + ": " + what + ": " + std::strerror(error),
                  full ? "free space on that file system" : "check the folder's permissions and the drive"});
}

void write_all(int fd, const std::filesystem::path& path, int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), std::min<size_t>(bytes.size(), size_t{1} << 30), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_file(path, "write", written == 0 ? EIO : errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

int open_new_file(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail_file(path, "create", errno);
  return fd;
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  const int fd = open_new_file(path);
  write_all(fd, path, 0, std::as_bytes(std::span(text)));
  if (fsync(fd) != 0) fail_file(path, "fsync", errno);
  close(fd);
}

FileSums write_copy(const std::filesystem::path& from, const std::filesystem::path& to) {
  const int in = open(from.c_str(), O_RDONLY | O_CLOEXEC);
  if (in < 0) fail_file(from, "open", errno);
  const int out = open_new_file(to);
  std::vector<std::byte> buffer(size_t{1} << 20);
  RunningSum sum;
  for (;;) {
    const ssize_t got = read(in, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_file(from, "read", errno);
    if (got == 0) break;
    const std::span<const std::byte> bytes(buffer.data(), static_cast<size_t>(got));
    write_all(out, to, sum.bytes(), bytes);
    sum.add(bytes);
  }
  close(in);
  if (fsync(out) != 0) fail_file(to, "fsync", errno);
  close(out);
  return {sum.bytes(), {{"", 0, sum.bytes(), sum.digest()}}};
}

void sync_folder(const std::filesystem::path& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_file(folder, "open", errno);
  const int failed = fsync(fd) != 0 ? errno : 0;
  close(fd);
  if (failed != 0) fail_file(folder, "fsync", failed);
}

}  // namespace sluice::train
