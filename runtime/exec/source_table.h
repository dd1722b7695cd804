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

// Consecutive elements of the group that lie consecutively in staging.
struct SourcePart {
  int64_t staging = 0;  // bytes
  Dtype dtype = Dtype::f32;
  int64_t begin = 0, end = 0;   // elements of the group
  Dtype packed_as = Dtype::u8;  // of a packed group: what it becomes there, size_of of it elements of the group each
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

// The states of one group in a checkpoint: a flat tensor for every part that the layout gives the group.
using StateSource = std::array<models::TensorLocation, kStateParts>;
// parts[i] of the result is the i-th StatePart; its begin and end count that part's numbers.
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
