#include "runtime/exec/source_table.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "models/ops/element.h"
#include "runtime/core/check.h"
#include "runtime/core/half.h"

namespace sluice::exec {
namespace {

// Reads closer than this are one read: the drive moves whole pages anyway.
constexpr int64_t kMergeGapBytes = 64 << 10;

int64_t aligned_span(int64_t offset, int64_t bytes) {
  return round_up(offset + bytes, 4096) - round_down(offset, 4096);
}

struct Piece {
  int file;
  int64_t offset, bytes;
  Dtype dtype;
  int64_t begin, end;
  Dtype packed_as = Dtype::u8;
  StatePart state = StatePart::m;
};

SourceChunk lay_out(std::vector<Piece> pieces) {
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return std::pair(a.file, a.offset) < std::pair(b.file, b.offset); });
  SourceChunk chunk;
  for (const Piece& piece : pieces) {
    SourceRun* last = chunk.runs.empty() ? nullptr : &chunk.runs.back();
    if (last != nullptr && last->file == piece.file && piece.offset - (last->offset + last->bytes) <= kMergeGapBytes) {
      last->bytes = std::max(last->bytes, piece.offset + piece.bytes - last->offset);
    } else {
      chunk.runs.push_back({piece.file, piece.offset, piece.bytes, 0});
    }
  }
  for (SourceRun& run : chunk.runs) {
    run.staging = chunk.staging_bytes;
    chunk.staging_bytes += aligned_span(run.offset, run.bytes);
  }
  for (const Piece& piece : pieces) {
    const auto run = std::find_if(chunk.runs.begin(), chunk.runs.end(), [&](const SourceRun& r) {
      return r.file == piece.file && r.offset <= piece.offset && piece.offset + piece.bytes <= r.offset + r.bytes;
    });
    SLUICE_CHECK(run != chunk.runs.end(), "every piece lies in a run");
    chunk.parts.push_back({run->staging + run->offset % 4096 + piece.offset - run->offset, piece.dtype, piece.begin,
                           piece.end, piece.packed_as, piece.state});
  }
  std::sort(chunk.parts.begin(), chunk.parts.end(),
            [](const SourcePart& a, const SourcePart& b) { return a.begin < b.begin; });
  return chunk;
}

float to_float(Dtype dtype, const std::byte* from) {
  if (dtype == Dtype::f32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return dtype == Dtype::bf16 ? bf16_to_float(bits) : f16_to_float(bits);
}

// Elements of a file lie anywhere: they are brought to where they are aligned, some at a time.
template <class From, class To>
void convert_elements(const std::byte* from, int64_t count, std::byte* to) {
  constexpr int64_t kBlock = 1024;
  std::array<From, kBlock> in;
  std::array<To, kBlock> out;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const auto each = static_cast<size_t>(std::min(kBlock, count - begin));
    std::memcpy(in.data(), from + begin * static_cast<int64_t>(sizeof(From)), each * sizeof(From));
    for (size_t i = 0; i < each; ++i) models::store(&out[i], models::load(&in[i]));
    std::memcpy(to + begin * static_cast<int64_t>(sizeof(To)), out.data(), each * sizeof(To));
  }
}

void convert(const SourcePart& part, const std::byte* from, int64_t count, Dtype compute, bool split, std::byte* to) {
  if (part.dtype == compute) {
    std::memcpy(to, from, static_cast<size_t>(count * size_of(compute)));
    return;
  }
  // Of frozen groups each time that they stream.
  if (compute == Dtype::f16)
    return part.dtype == Dtype::f32 ? convert_elements<float, models::F16>(from, count, to)
                                    : convert_elements<models::Bf16, models::F16>(from, count, to);
  const int64_t step = size_of(part.dtype);
  for (int64_t i = 0; i < count; ++i) {
    const float value = to_float(part.dtype, from + i * step);
    if (compute == Dtype::f32) {
      std::memcpy(to + i * 4, &value, sizeof value);
    } else {
      const uint16_t bits = split ? split_master(value).hi : float_to_bf16(value);
      std::memcpy(to + i * 2, &bits, sizeof bits);
    }
  }
}

// What of a segment lies in [begin, end).
std::optional<Piece> cut(const SourceSegment& segment, int64_t begin, int64_t end) {
  const int64_t first = std::max(begin, segment.begin), last = std::min(end, segment.end),
                each = size_of(segment.dtype);
  if (first >= last) return std::nullopt;
  return Piece{
      segment.file, segment.offset + (first - segment.begin) * each, (last - first) * each, segment.dtype, first, last};
}

// The first segment that ends behind `begin`.
std::span<const SourceSegment>::iterator first_behind(std::span<const SourceSegment> segments, int64_t begin) {
  return std::lower_bound(segments.begin(), segments.end(), begin,
                          [](const SourceSegment& segment, int64_t at) { return segment.end <= at; });
}

// Calls copy(part, first, last) for every part that meets [begin, end), and gap(first, last) between them.
template <class Copy, class Gap>
void for_range(const SourceChunk& chunk, int64_t begin, int64_t end, const Copy& copy, const Gap& gap) {
  int64_t at = begin;
  for (const SourcePart& part : chunk.parts) {
    const int64_t first = std::max(part.begin, begin), last = std::min(part.end, end);
    if (first >= last) continue;
    if (first > at) gap(at, first);
    copy(part, first, last);
    at = last;
  }
  if (at < end) gap(at, end);
}

}  // namespace

GroupSource locate(const models::ParameterGroup& group, std::span<const models::TensorLocation> tensors, int first_file,
                   int64_t chunk_elements) {
  SLUICE_CHECK(tensors.size() == group.tensors.size(), "one location per tensor of group " + group.name);
  GroupSource source;
  for (const models::TensorLocation& at : tensors) source.wider_than_bf16 |= at.dtype != Dtype::bf16;
  for (int64_t begin = 0; begin < group.elements; begin += chunk_elements) {
    const int64_t end = std::min(begin + chunk_elements, group.elements);
    std::vector<Piece> pieces;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const models::ParameterTensor& tensor = group.tensors[i];
      const int64_t width = group.width_of(tensor), stop = tensor.offset + tensor.elements * width;
      const int64_t first = std::max(begin, tensor.offset), last = std::min(end, stop);
      if (first >= last) continue;
      const int64_t each = size_of(tensors[i].dtype);
      pieces.push_back({first_file + tensors[i].file, tensors[i].offset + (first - tensor.offset) / width * each,
                        (last - first) / width * each, tensors[i].dtype, first, last, tensor.packed_as});
    }
    source.chunks.push_back(lay_out(std::move(pieces)));
    source.chunks.back().packed = group.packed;
    source.staging_bytes_max = std::max(source.staging_bytes_max, source.chunks.back().staging_bytes);
  }
  return source;
}

void append_segments(std::vector<SourceSegment>& to, std::span<const FileRange> ranges, Dtype dtype, int64_t offset,
                     int64_t begin, int64_t count) {
  const int64_t each = size_of(dtype), end = begin + count;
  int64_t at = 0;  // of the range, in the extent
  for (const FileRange& range : ranges) {
    const int64_t inside = std::max<int64_t>(offset - at, 0);
    if (inside < range.bytes && begin < end) {
      const int64_t here = std::min((range.bytes - inside) / each, end - begin);
      SLUICE_CHECK(here > 0, "a number lies in two ranges");
      to.push_back({range.file, range.offset + inside, dtype, begin, begin + here});
      begin += here;
      offset += here * each;
    }
    at += range.bytes;
  }
  SLUICE_CHECK(begin == end, "an extent is shorter than what it holds");
}

GroupSource locate_segments(int64_t elements, std::span<const SourceSegment> segments, int64_t chunk_elements) {
  GroupSource source;
  for (const SourceSegment& segment : segments) source.wider_than_bf16 |= segment.dtype != Dtype::bf16;
  for (int64_t begin = 0; begin < elements; begin += chunk_elements) {
    const int64_t end = std::min(begin + chunk_elements, elements);
    std::vector<Piece> pieces;
    for (auto segment = first_behind(segments, begin); segment != segments.end() && segment->begin < end; ++segment)
      pieces.push_back(*cut(*segment, begin, end));
    source.chunks.push_back(lay_out(std::move(pieces)));
    source.staging_bytes_max = std::max(source.staging_bytes_max, source.chunks.back().staging_bytes);
  }
  return source;
}

SourceChunk locate_states(const StateSource& source, const StateLayout& layout, int64_t begin, int64_t end) {
  std::vector<Piece> pieces;
  const StateSpans spans = layout.spans(begin, end);
  for (size_t part = 0; part < spans.size(); ++part) {
    const int64_t first = spans[part].begin, last = first + spans[part].count;
    const std::span<const SourceSegment> segments = source[part];
    for (auto segment = first_behind(segments, first); segment != segments.end() && segment->begin < last; ++segment) {
      pieces.push_back(*cut(*segment, first, last));
      pieces.back().state = static_cast<StatePart>(part);
    }
  }
  return lay_out(std::move(pieces));
}

void unpack_weights(const SourceChunk& chunk, std::span<const std::byte> staging, Dtype compute, bool split,
                    int64_t begin, int64_t end, int64_t chunk_begin, std::byte* weights) {
  const int64_t each = chunk.packed ? 1 : size_of(compute);
  for_range(
      chunk, begin, end,
      [&](const SourcePart& part, int64_t first, int64_t last) {
        const Dtype to = chunk.packed ? part.packed_as : compute;
        const int64_t width = chunk.packed ? size_of(to) : 1;
        convert(part, staging.data() + part.staging + (first - part.begin) / width * size_of(part.dtype),
                (last - first) / width, to, split, weights + (first - chunk_begin) * each);
      },
      [&](int64_t first, int64_t last) {
        std::memset(weights + (first - chunk_begin) * each, 0, static_cast<size_t>((last - first) * each));
      });
}

void unpack_low_bits(const SourceChunk& chunk, std::span<const std::byte> staging, int64_t begin, int64_t end,
                     int64_t chunk_begin, int16_t* lo) {
  for_range(
      chunk, begin, end,
      [&](const SourcePart& part, int64_t first, int64_t last) {
        const std::byte* from = staging.data() + part.staging + (first - part.begin) * size_of(part.dtype);
        for (int64_t i = first; i < last; ++i, from += size_of(part.dtype))
          lo[i - chunk_begin] = split_master(to_float(part.dtype, from)).lo;
      },
      [&](int64_t first, int64_t last) {
        std::fill(lo + (first - chunk_begin), lo + (last - chunk_begin), int16_t{0});
      });
}

}  // namespace sluice::exec
