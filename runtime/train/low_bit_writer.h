// Quantises a model's matrices one by one, from their files into those of a cache.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "models/low_bit.h"
#include "models/safetensors.h"
#include "runtime/core/units.h"
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
  // `stored` holds the matrices. Values are rounded to `rounded_to` first.
  LowBitWriter(const models::TensorIndex& stored, const std::vector<LowBitMatrix>& matrices, Dtype rounded_to);

  // Says what is about to be written.
  void announce(const std::string& format, Bytes bytes, const std::filesystem::path& folder);
  // Writes one matrix's pieces to their places. Throws SetupError when it cannot be read, RunError when not written.
  void write(const LowBitMatrix& matrix, const std::map<std::string, models::TensorLocation>& places,
             TensorFileWriter& to);

 private:
  void write_blocks(const models::TensorLocation& from, models::LowBitFormat format,
                    const std::vector<models::TensorLocation>& places, TensorFileWriter& to);
  void write_rows(const models::TensorLocation& from, int64_t columns,
                  const std::vector<models::TensorLocation>& places, TensorFileWriter& to);
  void round(std::span<float> values) const;
  void show(int64_t elements);

  const models::TensorIndex& stored_;
  Dtype rounded_to_;
  int64_t elements_total_ = 0, elements_done_ = 0;
  int shown_tenths_ = 0;
  double begin_seconds_ = 0;
  bool quiet_ = true;
};

}  // namespace sluice::train
