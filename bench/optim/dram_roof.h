// Kernels that move what an AdamW update moves and compute nothing to speak of: the DRAM speed it can be held to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace sluice::bench {

// Elements whose worth of one stream is whole cache lines, for elements of 1, 2 or 4 bytes.
inline constexpr int64_t kRoofBlockElements = 64;

// An update's memory: `written` holds the streams read and written in place, one after the other, each of
// `elements` elements; `gradients` is only read. All multiples of kRoofBlockElements, 64-byte aligned.
struct UpdateMemory {
  std::byte* written;
  std::byte* gradients;
  int64_t elements;
  int64_t gradient_bytes;                  // of one element: 2 or 4
  std::span<const int64_t> written_bytes;  // of one element of each stream: 1, 2 or 4
};

struct RoofKernel {
  std::string_view name;
  void (*run)(const UpdateMemory& memory, int64_t begin, int64_t end);  // elements
};

// The same bytes as the update, read and written in place: over the same streams, and over one long stream (fewest
// pages open at a time); each with and without software prefetch. The roof is the fastest of them.
std::span<const RoofKernel> roof_kernels();

// STREAM's triad, a = b + 3 c, with ordinary and with non-temporal stores. 12 bytes an element, as STREAM counts.
void triad(float* a, const float* b, const float* c, int64_t begin, int64_t end);
void triad_streaming(float* a, const float* b, const float* c, int64_t begin, int64_t end);

}  // namespace sluice::bench
