// low_bit_tool quantise KIND DOUBLE ROWS COLUMNS VALUES CODES SCALES NESTED: VALUES holds fp32; writes what
// bitsandbytes
//   keeps of them. NESTED is nested_absmax, then the offset, with DOUBLE 1.
// low_bit_tool expand KIND DOUBLE ROWS COLUMNS CODES SCALES NESTED DTYPE OUT: the way back, to f32, bf16 or f16, piece
// by
//   piece as products want it.
// low_bit_tool dynamic OUT: the 256 values of the dynamic type.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "models/ops/low_bit_kernels.h"
#include "runtime/core/dynamic_map.h"

namespace {

using namespace sluice;
using namespace sluice::models;

template <class T>
std::vector<T> read(const char* path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<T> data(static_cast<size_t>(file.tellg()) / sizeof(T));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size() * sizeof(T)));
  return data;
}
template <class T>
void write(const char* path, std::span<const T> data) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size_bytes()));
}

LowBitFormat format_of(const std::string& kind, const std::string& double_quant) {
  return {kind == "int8" ? LowBit::int8 : kind == "fp4" ? LowBit::fp4 : LowBit::nf4, double_quant == "1"};
}

void quantise(LowBitFormat format, int64_t rows, int64_t columns, char** files) {
  const std::vector<float> values = read<float>(files[0]);
  if (format.kind == LowBit::int8) {
    std::vector<int8_t> codes(values.size());
    std::vector<float> scales;
    for (int64_t row = 0; row < rows; ++row)
      scales.push_back(
          quantise_row(std::span(values).subspan(static_cast<size_t>(row * columns), static_cast<size_t>(columns)),
                       codes.data() + row * columns));
    write<int8_t>(files[1], codes);
    return write<float>(files[2], scales);
  }
  const auto blocks = static_cast<size_t>(low_bit_blocks(rows * columns));
  std::vector<uint8_t> codes((values.size() + 1) / 2), scale_codes(blocks);
  std::vector<float> scales(blocks), nested((blocks + kLowBitScaleBlock - 1) / kLowBitScaleBlock);
  low_bit_kernels().quantise(format.kind, values, codes.data(), scales.data());
  write<uint8_t>(files[1], codes);
  if (!format.double_quant) return write<float>(files[2], scales);
  nested.push_back(quantise_scales(scales, scale_codes.data(), nested.data()));
  write<uint8_t>(files[2], scale_codes);
  write<float>(files[3], nested);
}

// In odd pieces: begins and ends inside blocks and bytes.
std::vector<std::byte> expanded(const StoredMatrix& from, Dtype dtype, Isa isa) {
  constexpr int64_t kRows = 7, kColumns = 141;
  std::vector<std::byte> out(static_cast<size_t>(from.rows * from.columns * size_of(dtype)));
  for (int64_t row = 0; row < from.rows; row += kRows)
    for (int64_t column = 0; column < from.columns; column += kColumns) {
      const MatrixRange range{row, std::min(kRows, from.rows - row), column, std::min(kColumns, from.columns - column)};
      low_bit_kernels(isa).expand(dtype, from, range, out.data() + (row * from.columns + column) * size_of(dtype),
                                  from.columns);
    }
  return out;
}

void expand(LowBitFormat format, int64_t rows, int64_t columns, char** files) {
  const auto codes = read<std::byte>(files[0]), scales = read<std::byte>(files[1]);
  const std::vector<float> nested = format.double_quant ? read<float>(files[2]) : std::vector<float>(1);
  const std::string type = files[3];
  const Dtype dtype = type == "f32" ? Dtype::f32 : type == "bf16" ? Dtype::bf16 : Dtype::f16;
  const StoredMatrix from{format, rows, columns, codes.data(), scales.data(), nested.data(), &nested.back()};
  std::vector<std::byte> out = expanded(from, dtype, best_isa());
  for (const Isa isa : {Isa::v1, Isa::v3})
    if (isa <= best_isa() && expanded(from, dtype, isa) != out) {
      std::fprintf(stderr, "low_bit_tool: the copy for x86-64-v%d expands otherwise\n", isa == Isa::v1 ? 1 : 3);
      std::exit(3);
    }
  write<std::byte>(files[4], out);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "dynamic" && argc == 3) {
    write<float>(argv[2], dynamic_values(DynamicMap::with_sign));
  } else if (command == "quantise" && argc == 10) {
    quantise(format_of(argv[2], argv[3]), std::atoll(argv[4]), std::atoll(argv[5]), argv + 6);
  } else if (command == "expand" && argc == 11) {
    expand(format_of(argv[2], argv[3]), std::atoll(argv[4]), std::atoll(argv[5]), argv + 6);
  } else {
    std::fprintf(stderr, "usage: see the head of low_bit_tool.cpp\n");
    return 2;
  }
  return 0;
}
