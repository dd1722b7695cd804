// Frozen matrices in fewer bits, as bitsandbytes stores them: what a QLoRA base streams as (Dettmers et al. 2023,
// "QLoRA", section 3). Names, types and codes are those of its files, so that either side reads the other's.
//
// nf4, fp4: blocks of 64 elements of the flat matrix share a scale, the largest magnitude; an element is one of 16
// values times that. Two codes to a byte, the first in the high half. With double quantisation the scales, less their
// mean, are stored in 8 bits each, blocks of 256 of them sharing an fp32 scale. int8: an element is code / 127 times
// the fp32 scale of its row.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/dtype.h"

namespace sluice::models {

enum class LowBit : uint8_t { nf4, fp4, int8 };
std::string_view name_of(LowBit kind);

struct LowBitFormat {
  LowBit kind = LowBit::nf4;
  bool double_quant = true;  // of nf4 and fp4

  bool operator==(const LowBitFormat&) const = default;
};

inline constexpr int64_t kLowBitBlock = 64;        // elements that share a scale
inline constexpr int64_t kLowBitScaleBlock = 256;  // scales that share a scale
constexpr int64_t low_bit_blocks(int64_t elements) { return (elements + kLowBitBlock - 1) / kLowBitBlock; }

// Format of each matrix that is not stored as plain elements, by name ("model.layers.0.self_attn.q_proj.weight").
using LowBitFormats = std::map<std::string, LowBitFormat>;

// A tensor that a matrix is stored as.
struct LowBitPiece {
  std::string name;
  Dtype dtype = Dtype::u8;
  std::vector<int64_t> shape;
};
// Codes first, then scales. `nested_offset` is no tensor in bitsandbytes' files but a number in a JSON text.
std::vector<LowBitPiece> low_bit_pieces(const std::string& matrix, int64_t rows, int64_t columns, LowBitFormat format);

// The 16 values of a 4-bit kind, by code.
const std::array<float, 16>& low_bit_values(LowBit kind);

// A 4-bit matrix where its bytes are, or an int8 one: what is multiplied with.
struct StoredMatrix {
  LowBitFormat format;
  int64_t rows = 0, columns = 0;
  const std::byte* codes = nullptr;
  const std::byte* scales = nullptr;     // u8 with double quantisation, else fp32
  const float* nested_scales = nullptr;  // with double quantisation
  const float* nested_offset = nullptr;
};

// Rows and columns of a matrix.
struct MatrixRange {
  int64_t row = 0, rows = 0, column = 0, columns = 0;
};

}  // namespace sluice::models
