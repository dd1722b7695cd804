#include "models/cuda/low_bit_kernels.h"
#include "models/cuda/packed.cuh"
#include "runtime/core/dynamic_map.h"

namespace sluice::models::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kDynamic = 256, kValues = 16;
constexpr int kCodes = 16;  // elements of a thread where rows begin with a block: 8 bytes read, 32 or 64 written

// Arguments of all kernels here.
struct Source {
  const uint8_t* codes;
  const void* scales;
  const float *nested_scales, *nested_offset;
  const float *values, *dynamic;  // tables
  int64_t columns;                // of the whole matrix
  MatrixRange range;
};

// The tables where every thread of the block reads them: sixteen words lie in sixteen banks, so look-ups never collide.
struct Tables {
  float values[kValues], dynamic[kDynamic];
};
__device__ void load_tables(const Source& from, bool nested, Tables& tables) {
  if (threadIdx.x < kValues) tables.values[threadIdx.x] = from.values[threadIdx.x];
  if (nested) tables.dynamic[threadIdx.x] = from.dynamic[threadIdx.x];
  __syncthreads();
}

// Each operation rounded for itself, as on the host.
template <bool kNested>
__device__ float scale_of(const Source& from, const Tables& tables, int64_t block) {
  if constexpr (!kNested) return static_cast<const float*>(from.scales)[block];
  const float value = tables.dynamic[static_cast<const uint8_t*>(from.scales)[block]];
  return __fadd_rn(__fmul_rn(value, from.nested_scales[block / kLowBitScaleBlock]), *from.nested_offset);
}

template <class T, bool kNested>
__global__ void expand_packs(Source from, T* to, int64_t stride, int64_t packs) {
  __shared__ Tables tables;
  load_tables(from, kNested, tables);
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pack >= packs) return;
  const int64_t per_row = from.range.columns / kCodes, row = pack / per_row, column = pack % per_row * kCodes;
  const int64_t at = (from.range.row + row) * from.columns + from.range.column + column;
  const auto codes = *reinterpret_cast<const Pack<uint8_t, kCodes / 2>*>(from.codes + at / 2);
  const float scale = scale_of<kNested>(from, tables, at / kLowBitBlock);
  T* target = to + row * stride + column;
#pragma unroll
  for (int half = 0; half < kCodes / kWidest<T>; ++half) {
    float out[kWidest<T>];
#pragma unroll
    for (int i = 0; i < kWidest<T>; i += 2) {
      const uint8_t code = codes.at[(half * kWidest<T> + i) / 2];
      out[i] = __fmul_rn(tables.values[code >> 4], scale);
      out[i + 1] = __fmul_rn(tables.values[code & 15], scale);
    }
    store<T, kWidest<T>>(target + half * kWidest<T>, out);
  }
}

// Rows that begin inside a block.
template <class T, bool kNested>
__global__ void expand_elements(Source from, T* to, int64_t stride, int64_t elements) {
  __shared__ Tables tables;
  load_tables(from, kNested, tables);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= elements) return;
  const int64_t row = index / from.range.columns, column = index % from.range.columns;
  const int64_t at = (from.range.row + row) * from.columns + from.range.column + column;
  const unsigned code = from.codes[at / 2] >> (at % 2 == 0 ? 4 : 0) & 15u;
  const float scale = scale_of<kNested>(from, tables, at / kLowBitBlock);
  to[row * stride + column] = from_float<T>(__fmul_rn(tables.values[code], scale));
}

template <class T>
__global__ void expand_bytes(Source from, T* to, int64_t stride, int64_t elements) {
  constexpr float kUnit = 7.874015718698502e-3f;  // 1 / 127, as bitsandbytes writes it
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= elements) return;
  const int64_t row = index / from.range.columns, column = index % from.range.columns;
  const int64_t at = (from.range.row + row) * from.columns + from.range.column + column;
  const auto code = static_cast<float>(static_cast<int8_t>(from.codes[at]));
  const float scale = static_cast<const float*>(from.scales)[from.range.row + row];
  to[row * stride + column] = from_float<T>(__fmul_rn(__fmul_rn(code, scale), kUnit));
}

template <class T, bool kNested>
void expand_nibbles(const Source& from, T* to, int64_t stride) {
  const MatrixRange& range = from.range;
  const int64_t elements = range.rows * range.columns;
  const bool whole_blocks = from.columns % kLowBitBlock == 0 && range.column % kLowBitBlock == 0 &&
                            range.columns % kCodes == 0 && packs<T>(stride, {to});
  if (whole_blocks) {
    expand_packs<T, kNested>
        <<<grid(blocks_for(elements / kCodes, kThreads)), kThreads, 0, stream()>>>(from, to, stride, elements / kCodes);
  } else {
    expand_elements<T, kNested>
        <<<grid(blocks_for(elements, kThreads)), kThreads, 0, stream()>>>(from, to, stride, elements);
  }
}

template <class T>
void expand_to(const Source& from, LowBitFormat format, T* to, int64_t stride) {
  if (format.kind == LowBit::int8) {
    const int64_t elements = from.range.rows * from.range.columns;
    expand_bytes<T><<<grid(blocks_for(elements, kThreads)), kThreads, 0, stream()>>>(from, to, stride, elements);
  } else if (format.double_quant) {
    expand_nibbles<T, true>(from, to, stride);
  } else {
    expand_nibbles<T, false>(from, to, stride);
  }
  check_launch("expand");
}

}  // namespace

LowBitTables::LowBitTables()
    : memory_(CudaMemoryKind::device, Bytes{(2 * kValues + kDynamic) * 4}, "values of low bits") {
  const auto upload = [&](int at, std::span<const float> values) {
    copy_to_device(memory_.as<float>() + at, std::as_bytes(values), "the values of low bits");
  };
  upload(0, low_bit_values(LowBit::nf4));
  upload(kValues, low_bit_values(LowBit::fp4));
  upload(2 * kValues, dynamic_values(DynamicMap::with_sign));
}

const float* LowBitTables::values(LowBit kind) const {
  return memory_.as<float>() + (kind == LowBit::fp4 ? kValues : 0);
}

void expand(const LowBitTables& tables, Dtype dtype, const StoredMatrix& from, MatrixRange range, void* to,
            int64_t stride) {
  const Source source{reinterpret_cast<const uint8_t*>(from.codes),
                      from.scales,
                      from.nested_scales,
                      from.nested_offset,
                      tables.values(from.format.kind),
                      tables.dynamic(),
                      from.columns,
                      range};
  with_elements(to, dtype, [&](auto* elements) { expand_to(source, from.format, elements, stride); });
}

}  // namespace sluice::models::cuda
