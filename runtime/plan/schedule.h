// Time as data: the ops of one phase in program order, each on a lane, the buffers they touch at fixed places,
// and the dependencies that make any timing compute the same thing. Simulated, verified, executed and drawn alike.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/short_list.h"
#include "runtime/core/tier.h"
#include "runtime/core/units.h"
#include "runtime/plan/buffer_name.h"

namespace sluice::plan {

// What a buffer is for: rows of the memory table.
enum class Tag : uint8_t { weights, states, gradients, activations, boundaries, workspace, staging };
inline constexpr int kTagCount = 7;
std::string_view name_of(Tag tag);

using BufferId = int;
using OpId = int;
inline constexpr int kNone = -1;

// A fixed range of a tier's arena; on disk, one extent. 4096-byte aligned, length a multiple of 4096.
struct Buffer {
  Tier tier = Tier::host;
  Tag tag = Tag::workspace;
  int64_t offset = 0;
  int64_t bytes = 0;         // rounded up
  int64_t wanted_bytes = 0;  // as asked
  bool persistent = false;   // its content outlives a phase
  BufferName name;
};

enum class OpKind : uint8_t {
  read_source,  // user's files -> staging, the aligned superset of one chunk of one group
  unpack,       // staging -> weights chunk, converting
  init_states,  // zeros -> states chunk (and lo from an fp32 source)
  read,         // extent -> host buffer
  write,        // host buffer -> extent
  copy_to_device,
  copy_to_host,
  forward,
  backward,
  loss,       // the head: loss and gradients
  loss_only,  // the head without gradients
  norm,       // sum of squares of one group's gradient
  update,     // AdamW on one chunk of one group
  duplicate,  // host -> host: the set that an update will overwrite
};
std::string_view name_of(OpKind kind);

// What an operand is to its op. `index` tells which of several (group of the block, slot).
enum class Role : uint8_t {
  source,
  destination,
  input,
  output,
  output_gradient,
  input_gradient,
  parameters,
  gradients,
  slot,
  states,
  workspace
};

enum class Access : uint8_t { read, write, read_write };

struct Operand {
  Role role = Role::source;
  Access access = Access::read;
  int index = 0;
  BufferId buffer = kNone;
  int64_t offset = 0;  // bytes into the buffer
  int64_t bytes = 0;
};

using Operands = ShortList<Operand, 3>;
using OpIds = ShortList<OpId, 6>;

struct Op {
  OpKind kind = OpKind::read;
  Lane lane = Lane::compute;
  int block = kNone;
  int group = kNone;
  int micro_batch = kNone;
  int64_t begin = 0, end = 0;  // elements of the group, for chunked ops
  double flops = 0;            // compute ops
  Microseconds time = {};      // of compute ops with the device to themselves
  int64_t bytes = 0;           // moved, for the others
  bool early = false;          // update: of the step whose phase this is, else of the step before
  Operands operands = {};
  ShortList<uint8_t, 8> accumulate = {};  // backward, loss: per group of the block
  OpIds after = {};                       // all smaller than this op's own id
};

struct MemoryUse {
  std::array<Bytes, kTierCount> peak;                           // end of the highest buffer used
  std::array<std::array<Bytes, kTagCount>, kTierCount> by_tag;  // sums of buffers
  Bytes trained_on_disk;                                        // one set of trained weights and states
};

struct Schedule {
  std::string name;
  std::vector<Op> ops;
};

std::string describe(const Op& op);
// One line per op: id, lane, what, bytes or flops, dependencies. For --dry-run.
std::string to_table(const Schedule& schedule, const std::vector<Buffer>& buffers);

}  // namespace sluice::plan
