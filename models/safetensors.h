// Read and write safetensors: where each tensor lies in which file, checked against the file before any use.
// Pure host code; no tensor data is held. Format: https://github.com/huggingface/safetensors (README, "Format").
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/dtype.h"

namespace sluice::models {

struct TensorLocation {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<int64_t> shape;
  int file = 0;        // index into TensorIndex::files
  int64_t offset = 0;  // bytes from the start of the file
  int64_t bytes = 0;
};

// All tensors of a model directory or of one file.
struct TensorIndex {
  std::vector<std::filesystem::path> files;
  std::map<std::string, TensorLocation> tensors;
  // Well-formed tensors of a type that is not read here ("F64", "F8_E4M3", "BOOL"): name -> type, so that at() can
  // say so. A model that does not need them is not refused for them.
  std::map<std::string, std::string> unreadable;

  // `model.safetensors`, or `model.safetensors.index.json` and its shards. Throws SetupError naming file,
  // tensor and offset: missing, truncated, overlapping, unknown dtype, header too long, a shard outside the folder.
  static TensorIndex of_directory(const std::filesystem::path& directory);
  static TensorIndex of_file(const std::filesystem::path& file);

  // Puts the other's files after these, and its tensors in place of those of the same names.
  void add(const TensorIndex& other);

  // Throws SetupError when absent (with the nearest name) or of another shape.
  const TensorLocation& at(const std::string& name, const std::vector<int64_t>& shape) const;
};

// What a new file will hold: header bytes are final before any data is written, so that data can be streamed
// to `data_offset + offset` in any order. Data starts 4096-byte aligned.
// The format allows no holes, so tensors lie in descending order of the power of two (at most 64) that divides their
// bytes, otherwise as asked: each starts at a multiple of that power, which is 64 for every usual shape.
struct TensorFileLayout {
  std::string header;                   // 8-byte length, JSON, padding: write at offset 0
  std::vector<TensorLocation> tensors;  // absolute offsets, in the order asked
  int64_t file_bytes = 0;
};
struct NewTensor {
  std::string name;
  Dtype dtype;
  std::vector<int64_t> shape;
};
// Aborts on a name twice or a negative size: the caller's mistake.
TensorFileLayout plan_tensor_file(const std::vector<NewTensor>& tensors,
                                  const std::map<std::string, std::string>& metadata);

// Of the `number`th of `count` files, counted from 0, as Hugging Face names shards: `what`-00001-of-00002.safetensors.
std::string shard_name(std::string_view what, size_t number, size_t count);

}  // namespace sluice::models
