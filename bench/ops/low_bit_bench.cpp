// Matrices in low bits: how fast they are expanded, in bytes read and written, beside STREAM's triad in the same run.
#include <benchmark/benchmark.h>
#include <emmintrin.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "bench/optim/dram_roof.h"
#include "models/ops/low_bit_kernels.h"

namespace {

using namespace sluice;
using namespace sluice::models;

// A projection of a 32B model, larger than any cache.
constexpr int64_t kRows = 27648, kColumns = 5120, kElements = kRows * kColumns;

struct Memory {
  std::vector<std::byte> codes, scales;
  std::vector<float> nested;
  std::unique_ptr<std::byte, decltype(&std::free)> out{
      static_cast<std::byte*>(std::aligned_alloc(4096, static_cast<size_t>(kElements) * 4)), &std::free};

  Memory() : codes(kElements), scales(kElements / kLowBitBlock * 4), nested(kElements / kLowBitBlock / 256 + 1, 0.01f) {
    std::mt19937 random(1);
    for (std::byte& code : codes) code = static_cast<std::byte>(random());
    std::fill(out.get(), out.get() + kElements * 4, std::byte{0});
  }
  StoredMatrix matrix(LowBitFormat format) const {
    return {format, kRows, kColumns, codes.data(), scales.data(), nested.data(), nested.data()};
  }
};
const Memory& memory() {
  static const Memory all;
  return all;
}

int64_t stored_bytes(LowBitFormat format) {
  int64_t bytes = 0;
  for (const LowBitPiece& piece : low_bit_pieces("x.weight", kRows, kColumns, format)) {
    int64_t elements = 1;
    for (const int64_t size : piece.shape) elements *= size;
    bytes += elements * size_of(piece.dtype);
  }
  return bytes;
}

// `columns` at a time: all for the forward product, fewer for the backward one.
void expand(benchmark::State& state, LowBitFormat format, Dtype dtype, int64_t columns) {
  const StoredMatrix from = memory().matrix(format);
  for (auto _ : state)
    for (int64_t column = 0; column < kColumns; column += columns)
      low_bit_kernels().expand(dtype, from, {0, kRows, column, columns}, memory().out.get(), columns);
  const int64_t moved = state.iterations() * (stored_bytes(format) + kElements * size_of(dtype));
  state.SetBytesProcessed(moved);
  state.SetItemsProcessed(state.iterations() * kElements);
}
constexpr LowBitFormat kNf4{LowBit::nf4, true}, kInt8{LowBit::int8, false};
BENCHMARK_CAPTURE(expand, nf4_to_bf16, kNf4, Dtype::bf16, kColumns)->UseRealTime();
BENCHMARK_CAPTURE(expand, nf4_to_bf16_by_columns, kNf4, Dtype::bf16, 1280)->UseRealTime();
BENCHMARK_CAPTURE(expand, nf4_to_f16, kNf4, Dtype::f16, kColumns)->UseRealTime();
BENCHMARK_CAPTURE(expand, nf4_to_f32, kNf4, Dtype::f32, kColumns)->UseRealTime();
BENCHMARK_CAPTURE(expand, int8_to_bf16, kInt8, Dtype::bf16, kColumns)->UseRealTime();

// The bytes of nf4_to_bf16 and nothing else: 32 read and 128 written past the caches per block. What is written weighs
// more than in a triad.
void same_bytes(benchmark::State& state) {
  const auto* codes = reinterpret_cast<const __m128i*>(memory().codes.data());
  auto* out = reinterpret_cast<__m128i*>(memory().out.get());
  for (auto _ : state) {
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < kElements / kLowBitBlock; ++block) {
      const __m128i two = _mm_xor_si128(codes[2 * block], codes[2 * block + 1]);
      for (int64_t i = 0; i < 8; ++i) _mm_stream_si128(out + 8 * block + i, two);
    }
  }
  state.SetBytesProcessed(state.iterations() * kElements / kLowBitBlock * (32 + 128));
}
BENCHMARK(same_bytes)->UseRealTime();

void triad(benchmark::State& state) {
  constexpr int64_t kThird = kElements / 3 / 1024 * 1024;
  auto* a = reinterpret_cast<float*>(memory().out.get());
  for (auto _ : state) {
#pragma omp parallel for schedule(static)
    for (int64_t piece = 0; piece < kThird / 1024; ++piece)
      bench::triad_streaming(a, a + kThird, a + 2 * kThird, piece * 1024, (piece + 1) * 1024);
  }
  state.SetBytesProcessed(state.iterations() * kThird * 12);
}
BENCHMARK(triad)->UseRealTime();

}  // namespace
