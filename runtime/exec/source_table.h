// Which bytes of the user's files make up each chunk of each group, and where they lie in staging once read.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "models/parameter_group.h"
#include "models/safetensors.h"
#include "runtime/core/state_layout.h"
#include "runtime/core/units.h"

namespace sluice::exec {

// A read of [offset, offset + bytes) of a file; its aligned superset lands at `staging` (a multiple of 4096).
struct SourceRun {
  int file = 0;
  int64_t offset = 0;
  int64_t bytes = 0;
  int64_t staging = 0;
};

// Consecutive elements of a group, or numbers of a part of its states, that lie consecutively in a file.
struct SourceSegment {
  int file = 0;
  int64_t offset = 0;  // bytes
  Dtype dtype = Dtype::f32;
  int64_t begin = 0, end = 0;
};

// A range of a file: one of those that an extent is cut into.
struct FileRange {
  int file = 0;
  int64_t offset = 0, bytes = 0;
};
// Appends where numbers [begin, begin + count) lie: from byte `offset` on of an extent of these ranges.
void append_segments(std::vector<SourceSegment>& to, std::span<const FileRange> ranges, Dtype dtype, int64_t offset,
                     int64_t begin, int64_t count);

// Consecutive elements of the group that lie consecutively in staging.
struct SourcePart {
  int64_t staging = 0;  // bytes
  Dtype dtype = Dtype::f32;
  int64_t begin = 0, end = 0;      // elements of the group
  Dtype packed_as = Dtype::u8;     // of a packed group: what it becomes there, size_of of it elements of the group each
  StatePart state = StatePart::m;  // of states: begin and end count that part's numbers
};

struct SourceChunk {
  std::vector<SourceRun> runs;
  std::vector<SourcePart> parts;
  int64_t staging_bytes = 0;
  bool packed = false;  // of a group whose elements are bytes
};

struct GroupSource {
  std::vector<SourceChunk> chunks;
  int64_t staging_bytes_max = 0;
  bool wider_than_bf16 = false;  // some tensor holds more bits than a bf16 weight does
};

// `tensors`: one location per tensor of the group. Their files are numbered from `first_file` on in the job's list.
// `chunk_elements` of the group, a multiple of 4096.
GroupSource locate(const models::ParameterGroup& group, std::span<const models::TensorLocation> tensors, int first_file,
                   int64_t chunk_elements);

// The same of segments that ascend and leave no element out. They hold `dtype`.
GroupSource locate_segments(int64_t elements, std::span<const SourceSegment> segments, int64_t chunk_elements);

// The states of one group in a checkpoint: for every part that the layout gives the group, segments that ascend.
using StateSource = std::array<std::vector<SourceSegment>, kStateParts>;
SourceChunk locate_states(const StateSource& source, const StateLayout& layout, int64_t begin, int64_t end);

// Writes elements [begin, end) of a group, in the compute dtype or as packed; `weights` points to element
// `chunk_begin`. Gaps become zeros. Of a packed group begin and end are multiples of 4. To bf16 it rounds as
// split_master when `split` (a trained group), else to even as every framework does; to f16 always to even.
void unpack_weights(const SourceChunk& chunk, std::span<const std::byte> staging, Dtype compute, bool split,
                    int64_t begin, int64_t end, int64_t chunk_begin, std::byte* weights);
// The low halves of an fp32 source; zero where the source is bf16 or a gap.
void unpack_low_bits(const SourceChunk& chunk, std::span<const std::byte> staging, int64_t begin, int64_t end,
                     int64_t chunk_begin, int16_t* lo);

}  // namespace sluice::exec
