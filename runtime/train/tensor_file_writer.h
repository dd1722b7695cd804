// Writes a planned safetensors file under a temporary name and publishes it whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "models/safetensors.h"
#include "runtime/train/checksums.h"
#include "runtime/train/output_file.h"

namespace sluice::train {

class TensorFileWriter {
 public:
  // Creates `directory/name` with the header written and the space reserved. Throws RunError: no space, no permission.
  TensorFileWriter(const std::filesystem::path& directory, const std::string& name,
                   const models::TensorFileLayout& layout, const SpacePatience& patience = {});

  // At an absolute offset of the file. Inside one tensor, and there from its first byte to its last; tensors come in
  // any order. Throws RunError.
  void write(int64_t offset, std::span<const std::byte> bytes);
  void sync() { file_.sync(); }
  // When everything is written.
  FileSums sums() const;

 private:
  struct Part {
    std::string name;
    int64_t offset, bytes;
    RunningSum sum;
  };
  Part& part_at(int64_t offset);

  OutputFile file_;
  int64_t bytes_ = 0;
  std::vector<Part> parts_;  // by offset: the header, then every tensor that is not empty
};

}  // namespace sluice::train
