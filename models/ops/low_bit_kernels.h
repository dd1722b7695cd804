// Between numbers and low bits on the host, chosen once for this processor. Plain pointers, no LibTorch.
#pragma once

#include <cstdint>
#include <span>

#include "models/low_bit.h"
#include "models/ops/isa.h"

namespace sluice::models {

// One table per instruction set.
struct LowBitKernels {
  // Writes the range of `from`, rounded once to `dtype` (f32, bf16 or f16), to rows `stride` elements apart. All
  // threads.
  void (*expand)(Dtype dtype, const StoredMatrix& from, MatrixRange range, void* to, int64_t stride);
  // Codes [(count + 1) / 2] and scales [low_bit_blocks(count)] of a 4-bit kind, as bitsandbytes' CPU backend gives
  // them. What is not the matrix's end must be whole blocks. All threads.
  void (*quantise)(LowBit kind, std::span<const float> values, uint8_t* codes, float* scales);
};
const LowBitKernels& low_bit_kernels(Isa isa = best_isa());  // not above best_isa()

// Scales in 8 bits: what double quantisation makes of them. `codes` [scales], nested_scales [blocks of them]. Returns
// the mean that is taken off first, summed by LibTorch as torch does.
float quantise_scales(std::span<const float> scales, uint8_t* codes, float* nested_scales);

// One row of an int8 matrix: codes, and the scale that stands in SCB. bitsandbytes rounds values to fp16 before: so
// must who calls.
float quantise_row(std::span<const float> row, int8_t* codes);

}  // namespace sluice::models
