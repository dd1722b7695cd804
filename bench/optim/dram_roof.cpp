#include "bench/optim/dram_roof.h"

#include <xmmintrin.h>

#include <array>

namespace sluice::bench {
namespace {

using Line = uint32_t __attribute__((vector_size(64), may_alias));
constexpr int64_t kAheadBytes = 2048;

inline Line* line_at(std::byte* at) { return reinterpret_cast<Line*>(at); }

template <bool kPrefetch>
inline void add_in_place(std::byte* at, const Line& addend) {
  if constexpr (kPrefetch) __builtin_prefetch(at + kAheadBytes);
  *line_at(at) += addend;
}

template <bool kPrefetch>
inline Line read(std::byte* at) {
  if constexpr (kPrefetch) __builtin_prefetch(at + kAheadBytes);
  return *line_at(at);
}

template <bool kPrefetch>
void same_streams(const UpdateMemory& memory, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kRoofBlockElements) {
    Line gradient{};
    for (int64_t byte = 0; byte < kRoofBlockElements * memory.gradient_bytes; byte += 64) {
      gradient += read<kPrefetch>(memory.gradients + i * memory.gradient_bytes + byte);
    }
    std::byte* stream = memory.written;
    for (const int64_t bytes : memory.written_bytes) {
      for (int64_t byte = 0; byte < kRoofBlockElements * bytes; byte += 64) {
        add_in_place<kPrefetch>(stream + i * bytes + byte, gradient);
      }
      stream += memory.elements * bytes;
    }
  }
}

template <bool kPrefetch>
void one_stream(const UpdateMemory& memory, int64_t begin, int64_t end) {
  int64_t written_bytes = 0;
  for (const int64_t bytes : memory.written_bytes) written_bytes += bytes;
  for (int64_t i = begin; i < end; i += kRoofBlockElements) {
    Line gradient{};
    for (int64_t byte = 0; byte < kRoofBlockElements * memory.gradient_bytes; byte += 64) {
      gradient += read<kPrefetch>(memory.gradients + i * memory.gradient_bytes + byte);
    }
    for (int64_t byte = 0; byte < kRoofBlockElements * written_bytes; byte += 64) {
      add_in_place<kPrefetch>(memory.written + i * written_bytes + byte, gradient);
    }
  }
}

constexpr std::array kKernels = {
    RoofKernel{"same streams", same_streams<false>},
    RoofKernel{"same streams, prefetch", same_streams<true>},
    RoofKernel{"one stream", one_stream<false>},
    RoofKernel{"one stream, prefetch", one_stream<true>},
};

}  // namespace

std::span<const RoofKernel> roof_kernels() { return kKernels; }

void triad(float* a, const float* b, const float* c, int64_t begin, int64_t end) {
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) a[i] = b[i] + 3 * c[i];
}

void triad_streaming(float* a, const float* b, const float* c, int64_t begin, int64_t end) {
  const __m128 three = _mm_set1_ps(3);
  for (int64_t i = begin; i < end; i += 4) {
    _mm_stream_ps(a + i, _mm_add_ps(_mm_load_ps(b + i), _mm_mul_ps(three, _mm_load_ps(c + i))));
  }
  _mm_sfence();
}

}  // namespace sluice::bench
