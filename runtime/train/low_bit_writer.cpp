#include "runtime/train/low_bit_writer.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "models/ops/low_bit_kernels.h"
#include "runtime/core/half.h"
#include "runtime/core/result.h"
#include "runtime/train/stored_tensors.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPieceElements = 4 << 20;  // whole blocks

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

LowBitWriter::LowBitWriter(const models::TensorIndex& stored, const std::vector<LowBitMatrix>& matrices,
                           Dtype rounded_to)
    : stored_(stored), rounded_to_(rounded_to), begin_seconds_(now_seconds()) {
  for (const LowBitMatrix& matrix : matrices) elements_total_ += matrix.rows * matrix.columns;
}

void LowBitWriter::announce(const std::string& format, Bytes bytes, const fs::path& folder) {
  quiet_ = false;
  std::fprintf(stderr, "quantising the base to %s: %s in %s, kept for later jobs\n", format.c_str(),
               to_string(bytes).c_str(), folder.c_str());
}

void LowBitWriter::write(const LowBitMatrix& matrix, const std::map<std::string, models::TensorLocation>& places,
                         TensorFileWriter& to) {
  const models::TensorLocation& from = stored_.at(matrix.name, {matrix.rows, matrix.columns});
  std::vector<models::TensorLocation> pieces;
  for (const models::LowBitPiece& piece : pieces_of(matrix)) pieces.push_back(places.at(piece.name));
  if (matrix.format.kind == models::LowBit::int8) {
    write_rows(from, matrix.columns, pieces, to);
  } else {
    write_blocks(from, matrix.format, pieces, to);
  }
}

void LowBitWriter::write_blocks(const models::TensorLocation& from, models::LowBitFormat format,
                                const std::vector<models::TensorLocation>& places, TensorFileWriter& to) {
  const int64_t elements = from.bytes / size_of(from.dtype);
  std::vector<float> scales(static_cast<size_t>(models::low_bit_blocks(elements)));
  std::vector<uint8_t> codes(static_cast<size_t>((std::min(elements, kPieceElements) + 1) / 2));
  read_in_pieces(stored_.files, from, kPieceElements, [&](int64_t begin, std::span<float> values) {
    round(values);
    models::low_bit_kernels().quantise(format.kind, values, codes.data(), scales.data() + begin / models::kLowBitBlock);
    to.write(places[0].offset + begin / 2, std::as_bytes(std::span(codes).first((values.size() + 1) / 2)));
    show(static_cast<int64_t>(values.size()));
  });
  if (!format.double_quant) return to.write(places[1].offset, std::as_bytes(std::span(scales)));
  std::vector<uint8_t> scale_codes(scales.size());
  std::vector<float> nested((scales.size() + models::kLowBitScaleBlock - 1) / models::kLowBitScaleBlock);
  const float offset = models::quantise_scales(scales, scale_codes.data(), nested.data());
  to.write(places[1].offset, std::as_bytes(std::span(scale_codes)));
  to.write(places[2].offset, std::as_bytes(std::span(nested)));
  to.write(places[3].offset, std::as_bytes(std::span(&offset, 1)));
}

void LowBitWriter::write_rows(const models::TensorLocation& from, int64_t columns,
                              const std::vector<models::TensorLocation>& places, TensorFileWriter& to) {
  const int64_t piece = std::max(columns, kPieceElements / columns * columns);
  std::vector<float> scales;
  std::vector<int8_t> codes;
  read_in_pieces(stored_.files, from, piece, [&](int64_t begin, std::span<float> values) {
    round(values);
    // bitsandbytes quantises fp16 values, whatever the model's type.
    for (float& value : values) value = f16_to_float(float_to_f16(value));
    codes.resize(values.size());
    for (size_t at = 0; at < values.size(); at += static_cast<size_t>(columns))
      scales.push_back(models::quantise_row(values.subspan(at, static_cast<size_t>(columns)), codes.data() + at));
    to.write(places[0].offset + begin, std::as_bytes(std::span(codes)));
    show(static_cast<int64_t>(values.size()));
  });
  to.write(places[1].offset, std::as_bytes(std::span(scales)));
}

void LowBitWriter::round(std::span<float> values) const {
  if (rounded_to_ == Dtype::bf16)
    for (float& value : values) value = bf16_to_float(float_to_bf16(value));
  if (rounded_to_ == Dtype::f16)
    for (float& value : values) value = f16_to_float(float_to_f16(value));
}

// A line per tenth: also a log file shall be readable.
void LowBitWriter::show(int64_t elements) {
  constexpr double kTellAfterSeconds = 2;
  elements_done_ += elements;
  const double share = static_cast<double>(elements_done_) / static_cast<double>(elements_total_);
  const double seconds = now_seconds() - begin_seconds_;
  const int tenths = static_cast<int>(share * 10);
  if (quiet_ || tenths <= shown_tenths_ || seconds < kTellAfterSeconds) return;
  shown_tenths_ = tenths;
  const std::string bar =
      std::string(static_cast<size_t>(tenths), '#') + std::string(static_cast<size_t>(10 - tenths), '.');
  std::fprintf(stderr, "  [%s] %3.0f%%, %.0f s, about %.0f s left\n", bar.c_str(), 100 * share, seconds,
               seconds * (1 - share) / share);
}

}  // namespace sluice::train
