#include "runtime/exec/first_states.h"

#include <algorithm>
#include <cstring>

#include "runtime/core/check.h"

namespace sluice::exec {
namespace {

// Calls act(part, inside, whole): where the numbers of [first, last) lie in the chunk's part.
template <class Act>
void for_each_part(const StatesChunk& chunk, int64_t first, int64_t last, const Act& act) {
  const StateSpans whole = chunk.layout->spans(chunk.begin, chunk.end);
  const StateSpans inside = chunk.layout->spans(chunk.begin + first, chunk.begin + last);
  for (int part = 0; part < kStateParts; ++part)
    if (inside[static_cast<size_t>(part)].count > 0)
      act(static_cast<StatePart>(part), inside[static_cast<size_t>(part)], whole[static_cast<size_t>(part)]);
}

int64_t byte_offset(const StateSpan& inside, const StateSpan& whole) {
  return (inside.begin - whole.begin) * size_of(whole.dtype);
}

}  // namespace

void start_states(const StatesChunk& chunk, const SourceChunk* source, std::span<const std::byte> staging,
                  int64_t first, int64_t last) {
  for_each_part(chunk, first, last, [&](StatePart part, const StateSpan& inside, const StateSpan& whole) {
    std::byte* const all = chunk.states + whole.offset;
    if (part != StatePart::master || source == nullptr) {
      SLUICE_CHECK(part != StatePart::master || chunk.layout->weights() == Dtype::bf16, "a whole master has a source");
      std::memset(all + byte_offset(inside, whole), 0, static_cast<size_t>(inside.bytes()));
    } else if (chunk.layout->weights() == Dtype::bf16) {
      unpack_low_bits(*source, staging, chunk.begin + first, chunk.begin + last, chunk.begin,
                      reinterpret_cast<int16_t*>(all));
    } else {
      unpack_weights(*source, staging, Dtype::f32, /*split=*/false, chunk.begin + first, chunk.begin + last,
                     chunk.begin, all);
    }
  });
}

void restore_states(const StatesChunk& chunk, const SourceChunk& source, std::span<const std::byte> staging,
                    int64_t first, int64_t last) {
  for_each_part(chunk, first, last, [&](StatePart part, const StateSpan& inside, const StateSpan& whole) {
    const int64_t each = size_of(whole.dtype);
    for (const SourcePart& stored : source.parts) {
      const int64_t from = std::max(inside.begin, stored.begin), to = std::min(inside.begin + inside.count, stored.end);
      if (stored.state != part || from >= to) continue;
      std::memcpy(chunk.states + whole.offset + (from - whole.begin) * each,
                  staging.data() + stored.staging + (from - stored.begin) * each,
                  static_cast<size_t>((to - from) * each));
    }
  });
}

}  // namespace sluice::exec
