#include "runtime/train/stored_tensors.h"

#include <algorithm>
#include <fstream>

#include "runtime/core/result.h"

namespace sluice::train {

namespace {

void read_range(const std::filesystem::path& path, int64_t offset, int64_t bytes, std::byte* to) {
  std::ifstream file(path, std::ios::binary);
  file.seekg(offset);
  if (!file.read(reinterpret_cast<char*>(to), bytes))
    throw SetupError(
        path.string() + ": cannot read " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset),
        "check the file and the drive");
}

}  // namespace

void read_runs(const std::vector<std::filesystem::path>& files, const exec::SourceChunk& chunk,
               std::span<std::byte> staging) {
  for (const exec::SourceRun& run : chunk.runs)
    read_range(files[static_cast<size_t>(run.file)], run.offset, run.bytes,
               staging.data() + run.staging + run.offset % 4096);
}

std::vector<std::byte> read_bytes(const std::vector<std::filesystem::path>& files, const models::TensorLocation& tensor,
                                  int64_t begin, int64_t bytes) {
  std::vector<std::byte> read(static_cast<size_t>(bytes));
  read_range(files[static_cast<size_t>(tensor.file)], tensor.offset + begin, bytes, read.data());
  return read;
}

void read_in_pieces(const std::vector<std::filesystem::path>& files, const models::TensorLocation& tensor,
                    int64_t piece_elements, const TensorVisit& visit) {
  const int64_t elements = tensor.bytes / size_of(tensor.dtype);
  const models::ParameterGroup alone{
      tensor.name, false, elements, elements, {{tensor.name, tensor.shape, 0, elements}}};
  const exec::GroupSource source = exec::locate(alone, std::span(&tensor, 1), 0, piece_elements);
  std::vector<std::byte> staging(static_cast<size_t>(source.staging_bytes_max));
  std::vector<float> values(static_cast<size_t>(std::min(elements, piece_elements)));
  int64_t begin = 0;
  for (const exec::SourceChunk& chunk : source.chunks) {
    const int64_t end = std::min(begin + piece_elements, elements);
    read_runs(files, chunk, staging);
    exec::unpack_weights(chunk, staging, Dtype::f32, /*split=*/false, begin, end, begin,
                         reinterpret_cast<std::byte*>(values.data()));
    visit(begin, std::span(values).first(static_cast<size_t>(end - begin)));
    begin = end;
  }
}

}  // namespace sluice::train
