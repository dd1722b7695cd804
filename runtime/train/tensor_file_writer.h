// Writes a planned safetensors file under a temporary name and publishes it whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "models/safetensors.h"

namespace sluice::train {

class TensorFileWriter {
 public:
  // Creates `directory/name` with the header written and the space reserved. Throws RunError: no space, no permission.
  TensorFileWriter(const std::filesystem::path& directory, const std::string& name,
                   const models::TensorFileLayout& layout);
  ~TensorFileWriter();
  TensorFileWriter(TensorFileWriter&& other) noexcept;
  TensorFileWriter& operator=(TensorFileWriter&&) = delete;

  // At an absolute offset of the file. Throws RunError.
  void write(int64_t offset, std::span<const std::byte> bytes);
  void sync();  // fsync; throws RunError

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

// Writes a whole small file and syncs it. Throws RunError.
void write_file(const std::filesystem::path& path, std::string_view text);
// Makes renames inside the folder durable. Throws RunError.
void sync_folder(const std::filesystem::path& folder);

}  // namespace sluice::train
