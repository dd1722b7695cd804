// Matrices of a checkpoint that bitsandbytes quantised, as numbers again.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "models/low_bit_files.h"
#include "models/safetensors.h"
#include "runtime/train/stored_tensors.h"

namespace sluice::train {

// Where a matrix in low bits is stored.
struct StoredLowBits {
  models::LowBitFormat format;
  int64_t rows = 0, columns = 0;
  float nested_offset = 0;
  models::TensorLocation codes, scales, nested_scales;
};
// Whole rows at a time, at most `piece_elements` of them where a row is not longer. What is held of the codes is no
// more than that either, where rows of it begin with a scale of scales.
void read_low_bits(const std::vector<std::filesystem::path>& files, const StoredLowBits& matrix, int64_t piece_elements,
                   const TensorVisit& visit);

class LowBitReader {
 public:
  LowBitReader() = default;
  // Takes the descriptions of formats out of `index`, and puts in the place of each matrix's pieces the matrix itself,
  // [rows, columns] of that shape, as if it were stored in fp32. `shapes` by name. Throws as take_low_bit_descriptions.
  LowBitReader(models::TensorIndex& index, const std::map<std::string, std::vector<int64_t>>& shapes);

  bool holds(const std::string& matrix) const { return matrices_.contains(matrix); }
  bool empty() const { return matrices_.empty(); }
  // As read_low_bits.
  void read(const std::string& matrix, int64_t piece_elements, const TensorVisit& visit) const;

 private:
  std::vector<std::filesystem::path> files_;
  std::map<std::string, StoredLowBits> matrices_;
};

}  // namespace sluice::train
