#include "runtime/train/output_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

// A new file takes a block of the file system's own.
constexpr int64_t kBlockBytes = 4096;

const char* fix_of(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "free space on that file system";
    case EROFS:
      return "the file system is mounted read-only, often after a drive failure: look at `dmesg`";
    case EIO:
      return "the drive reports a failure: look at `dmesg` and `smartctl -a`, and replace it";
    case ENOENT:
    case ENOTDIR:
    case ENODEV:
    case ENXIO:
      return "the folder has gone: was it removed, or its drive unmounted?";
    case EFBIG:
      return "raise `ulimit -f`, or use a file system that holds larger files";
    case EMFILE:
    case ENFILE:
      return "raise `ulimit -n`";
    default:
      return "check the folder's permissions and the drive";
  }
}

bool has_room(int fd, int64_t bytes) {
  struct statvfs space {};
  if (fstatvfs(fd, &space) != 0 || space.f_blocks == 0) return true;  // some do not say
  return static_cast<int64_t>(space.f_bavail * space.f_frsize) >= bytes;
}

Error error_of(const std::filesystem::path& file, const char* what, int error) {
  return {is_no_space(error) ? ErrorCode::no_space : ErrorCode::io,
          file.string() + ": " + what + ": " + std::strerror(error), fix_of(error)};
}

}  // namespace

void throw_file_error(const std::filesystem::path& file, const char* what, int error) {
  throw RunError(error_of(file, what, error));
}

OutputFile::OutputFile(std::filesystem::path path, const SpacePatience& patience)
    : path_(std::move(path)), space_(patience), watch_(patience.watch) {
  while ((fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) < 0)
    wait_for_space_or_throw("create", errno, kBlockBytes);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      space_(std::move(other.space_)),
      watch_(std::move(other.watch_)),
      fd_(std::exchange(other.fd_, -1)),
      end_(other.end_) {}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
}

void OutputFile::reserve(Bytes bytes) {
  for (;;) {
    // Some file systems hand out all that they have before they refuse: others would meet a full drive meanwhile.
    const int refused = has_room(fd_, bytes.count) ? allocate(bytes) : ENOSPC;
    if (refused == 0) return space_.made_room();
    if (refused == EOPNOTSUPP || refused == EINVAL) return;
    if (refused == EINTR) continue;
    [[maybe_unused]] const int ignored = ftruncate(fd_, 0);
    wait_for_space_or_throw("reserve space", refused, bytes.count);
  }
}

void OutputFile::write(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write_some(offset, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      wait_for_space_or_throw("write", written == 0 ? EIO : errno, static_cast<int64_t>(bytes.size()));
      continue;
    }
    space_.made_room();
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
    end_ = std::max(end_, offset);
  }
}

ssize_t OutputFile::write_some(int64_t offset, std::span<const std::byte> bytes) const {
  const WatchedCall call(watch_.get(), "a write to " + path_.string());
  return pwrite(fd_, bytes.data(), std::min<size_t>(bytes.size(), size_t{1} << 30), offset);
}

int OutputFile::allocate(Bytes bytes) const {
  const WatchedCall call(watch_.get(), "the reservation of " + path_.string());
  return posix_fallocate(fd_, 0, bytes.count);
}

void OutputFile::append(std::string_view text) { write(end_, std::as_bytes(std::span(text))); }

void OutputFile::sync() {
  const WatchedCall call(watch_.get(), "the sync of " + path_.string());
  if (fsync(fd_) == 0) return;
  if (is_no_space(errno)) throw NoRoomAtSync(path_, Bytes{end_}, errno);
  throw_file_error(path_, "fsync", errno);
}

void OutputFile::wait_for_space_or_throw(const char* what, int error, int64_t needed) {
  if (!is_no_space(error)) throw_file_error(path_, what, error);
  if (const std::optional<Error> refused = space_.refused_then_wait(path_, Bytes{needed})) throw RunError(*refused);
}

NoRoomAtSync::NoRoomAtSync(const std::filesystem::path& file, Bytes needed, int error)
    : RunError(error_of(file, "fsync", error)), file_(file), needed_(needed) {}

void until_synced(const SpacePatience& patience, const std::function<void()>& write) {
  SpaceWait space(patience);
  for (;;) {
    try {
      write();
      return space.made_room();
    } catch (const NoRoomAtSync& full) {
      if (const std::optional<Error> refused = space.refused_then_wait(full.file(), full.needed()))
        throw RunError(*refused);
    }
  }
}

void write_file(const std::filesystem::path& path, std::string_view text, const SpacePatience& patience) {
  until_synced(patience, [&] {
    OutputFile file(path, patience);
    file.append(text);
    file.sync();
  });
}

namespace {

// Closed at the end of its scope, however that is left.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path) : path_(path), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw_file_error(path_, "open", errno);
  }
  ~InputFile() { close(fd_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // How many bytes were read; 0 at the end.
  size_t read_some(std::span<std::byte> into) {
    for (;;) {
      const ssize_t got = read(fd_, into.data(), into.size());
      if (got >= 0) return static_cast<size_t>(got);
      if (errno != EINTR) throw_file_error(path_, "read", errno);
    }
  }

 private:
  std::filesystem::path path_;
  int fd_;
};

FileSums copied(const std::filesystem::path& from, const std::filesystem::path& to, const SpacePatience& patience) {
  InputFile in(from);
  OutputFile out(to, patience);
  std::vector<std::byte> buffer(size_t{1} << 20);
  RunningSum sum;
  while (const size_t got = in.read_some(buffer)) {
    const std::span<const std::byte> bytes(buffer.data(), got);
    out.write(sum.bytes(), bytes);
    sum.add(bytes);
  }
  out.sync();
  return {sum.bytes(), {{"", 0, sum.bytes(), sum.digest()}}};
}

}  // namespace

FileSums write_copy(const std::filesystem::path& from, const std::filesystem::path& to, const SpacePatience& patience) {
  FileSums sums;
  until_synced(patience, [&] { sums = copied(from, to, patience); });
  return sums;
}

}  // namespace sluice::train
