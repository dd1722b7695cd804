// Quantises a model's matrices one by one, from their files into those of a cache.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "models/low_bit.h"
#include "models/safetensors.h"
#include "runtime/core/work.h"
#include "runtime/train/tensor_file_writer.h"

namespace sluice::train {

// A matrix of a layer, and what becomes of it.
struct LowBitMatrix {
  std::string name;
  int64_t layer = 0, rows = 0, columns = 0;
  models::LowBitFormat format;
};
inline std::vector<models::LowBitPiece> pieces_of(const LowBitMatrix& matrix) {
  return models::low_bit_pieces(matrix.name, matrix.rows, matrix.columns, matrix.format);
}

class LowBitWriter {
 public:
  // `stored` holds the matrices, and outlives this. Values are rounded to `rounded_to` first. `quantised` is told of
  // bytes as they are stored.
  LowBitWriter(const models::TensorIndex& stored, Dtype rounded_to, Advance quantised)
      : stored_(stored), rounded_to_(rounded_to), quantised_(std::move(quantised)) {}

  // Writes one matrix's pieces to their places. Throws SetupError when it cannot be read, RunError when not written.
  void write(const LowBitMatrix& matrix, const std::map<std::string, models::TensorLocation>& places,
             TensorFileWriter& to);

 private:
  void write_blocks(const models::TensorLocation& from, models::LowBitFormat format,
                    const std::vector<models::TensorLocation>& places, TensorFileWriter& to);
  void write_rows(const models::TensorLocation& from, int64_t columns,
                  const std::vector<models::TensorLocation>& places, TensorFileWriter& to);
  void round(std::span<float> values) const;

  const models::TensorIndex& stored_;
  Dtype rounded_to_;
  Advance quantised_;
};

}  // namespace sluice::train
