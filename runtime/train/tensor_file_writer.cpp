#include "runtime/train/tensor_file_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  throw RunError({full ? ErrorCode::no_space : ErrorCode::io, path.string() + ": " + what + ": " + std::strerror(error),
                  full ? "free space on that file system" : "check the folder's permissions and the drive"});
}

void write_all(int fd, const std::filesystem::path& path, int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), std::min<size_t>(bytes.size(), size_t{1} << 30), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(path, "write", written == 0 ? EIO : errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

int open_new(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail(path, "create", errno);
  return fd;
}

}  // namespace

TensorFileWriter::TensorFileWriter(const std::filesystem::path& directory, const std::string& name,
                                   const models::TensorFileLayout& layout)
    : path_(directory / name), fd_(open_new(path_)), bytes_(layout.file_bytes) {
  parts_.push_back({"header", 0, static_cast<int64_t>(layout.header.size()), {}});
  for (const models::TensorLocation& tensor : layout.tensors)
    if (tensor.bytes > 0) parts_.push_back({tensor.name, tensor.offset, tensor.bytes, {}});
  std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) { return a.offset < b.offset; });
  const int refused = posix_fallocate(fd_, 0, layout.file_bytes);
  if (refused != 0 && refused != EOPNOTSUPP && refused != EINVAL) fail(path_, "reserve space", refused);
  write(0, std::as_bytes(std::span(layout.header)));
}

TensorFileWriter::TensorFileWriter(TensorFileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_(other.bytes_),
      parts_(std::move(other.parts_)) {}

TensorFileWriter::~TensorFileWriter() {
  if (fd_ >= 0) close(fd_);
}

TensorFileWriter::Part& TensorFileWriter::part_at(int64_t offset) {
  const auto after = std::upper_bound(parts_.begin(), parts_.end(), offset,
                                      [](int64_t at, const Part& part) { return at < part.offset; });
  return *std::prev(after);
}

void TensorFileWriter::write(int64_t offset, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  Part& part = part_at(offset);
  SLUICE_CHECK(offset == part.offset + part.sum.bytes(), "a tensor written out of order: " + part.name);
  SLUICE_CHECK(part.sum.bytes() + static_cast<int64_t>(bytes.size()) <= part.bytes,
               "a write beyond its tensor: " + part.name);
  write_all(fd_, path_, offset, bytes);
  part.sum.add(bytes);
}

FileSums TensorFileWriter::sums() const {
  FileSums sums{bytes_, {}};
  for (const Part& part : parts_) {
    SLUICE_CHECK(part.sum.bytes() == part.bytes, "a tensor not written to its end: " + part.name);
    sums.parts.push_back({part.name, part.offset, part.bytes, part.sum.digest()});
  }
  return sums;
}

void TensorFileWriter::sync() {
  if (fsync(fd_) != 0) fail(path_, "fsync", errno);
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  const int fd = open_new(path);
  write_all(fd, path, 0, std::as_bytes(std::span(text)));
  if (fsync(fd) != 0) fail(path, "fsync", errno);
  close(fd);
}

FileSums write_copy(const std::filesystem::path& from, const std::filesystem::path& to) {
  const int in = open(from.c_str(), O_RDONLY | O_CLOEXEC);
  if (in < 0) fail(from, "open", errno);
  const int out = open_new(to);
  std::vector<std::byte> buffer(size_t{1} << 20);
  RunningSum sum;
  for (;;) {
    const ssize_t got = read(in, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(from, "read", errno);
    if (got == 0) break;
    const std::span<const std::byte> bytes(buffer.data(), static_cast<size_t>(got));
    write_all(out, to, sum.bytes(), bytes);
    sum.add(bytes);
  }
  close(in);
  if (fsync(out) != 0) fail(to, "fsync", errno);
  close(out);
  return {sum.bytes(), {{"", 0, sum.bytes(), sum.digest()}}};
}

}  // namespace sluice::train
