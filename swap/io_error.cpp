#include "swap/io_error.h"

#include <cerrno>
#include <cstring>

namespace sluice::swap {
namespace {

struct Meaning {
  ErrorCode code;
  const char* hint;
};

Meaning meaning_of(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return {ErrorCode::no_space, "free space on that file system"};
    case EIO:
      return {ErrorCode::io, "the drive reports a failure: look at `dmesg` and `smartctl -a`, and replace it"};
    case EROFS:
      return {ErrorCode::io, "the file system was remounted read-only, often after a drive failure: look at `dmesg`"};
    case EINVAL:
      return {ErrorCode::io, "the file system refuses direct I/O of this size: use another offload.nvme_path"};
    case EBADF:
    case ENXIO:
    case ENODEV:
      return {ErrorCode::io, "the drive has gone: check its connection"};
    case ENOMEM:
      return {ErrorCode::capacity, "the kernel has no memory for I/O: lower offload.max_cpu"};
    default:
      return {ErrorCode::io, "look at `dmesg`"};
  }
}

}  // namespace

Error io_error(Direction direction, const std::filesystem::path& file, int64_t offset, int64_t bytes, int error) {
  const Meaning meaning = meaning_of(error);
  return {meaning.code,
          std::string(direction == Direction::read ? "reading " : "writing ") + std::to_string(bytes) +
              " bytes at offset " + std::to_string(offset) + " of " + file.string() + ": " + std::strerror(error),
          meaning.hint};
}

}  // namespace sluice::swap
