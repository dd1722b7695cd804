#include "runtime/train/tensor_file_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "runtime/core/result.h"

namespace sluice::train {
TensorFileWriter::TensorFileWriter(const std::filesystem::path& directory, const std::string& name,
                                   const models::TensorFileLayout& layout, const SpacePatience& patience)
    : file_(directory / name, patience), bytes_(layout.file_bytes) {
  parts_.push_back({"header", 0, static_cast<int64_t>(layout.header.size()), {}});
  for (const models::TensorLocation& tensor : layout.tensors)
    if (tensor.bytes > 0) parts_.push_back({tensor.name, tensor.offset, tensor.bytes, {}});
  std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) { return a.offset < b.offset; });
  file_.reserve(Bytes{layout.file_bytes});
  write(0, std::as_bytes(std::span(layout.header)));
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
  file_.write(offset, bytes);
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

void write_file(const std::filesystem::path& path, std::string_view text, const SpacePatience& patience) {
  OutputFile file(path, patience);
  file.append(text);
  file.sync();
}

FileSums write_copy(const std::filesystem::path& from, const std::filesystem::path& to, const SpacePatience& patience) {
  const int in = open(from.c_str(), O_RDONLY | O_CLOEXEC);
  if (in < 0) throw_file_error(from, "open", errno);
  OutputFile out(to, patience);
  std::vector<std::byte> buffer(size_t{1} << 20);
  RunningSum sum;
  for (;;) {
    const ssize_t got = read(in, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int error = errno;
      close(in);
      throw_file_error(from, "read", error);
    }
    if (got == 0) break;
    const std::span<const std::byte> bytes(buffer.data(), static_cast<size_t>(got));
    out.write(sum.bytes(), bytes);
    sum.add(bytes);
  }
  close(in);
  out.sync();
  return {sum.bytes(), {{"", 0, sum.bytes(), sum.digest()}}};
}

}  // namespace sluice::train
