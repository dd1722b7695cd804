#include "runtime/train/tensor_file_writer.h"

#include <algorithm>

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

}  // namespace sluice::train
