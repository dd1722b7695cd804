// What an op does to symbolic memory: the pages that it touches and what it writes there, from its kind and the job's
// shape. Of an operand only the place counts, and its length only where the executor uses it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "runtime/plan/phase.h"
#include "runtime/plan/schedule.h"
#include "tests/unit/plan/symbolic_memory.h"

namespace sluice::plan {

struct Touch {
  size_t tier = 0;
  size_t first = 0, count = 0;  // pages
  int64_t last_bytes = 0;       // of the last page
  bool reads = false, writes = false;
  uint64_t skew = 0;  // of the address in its page
};

struct Act {
  std::vector<Touch> touches;
  std::string crash;          // why the executor would crash or leave its memory; empty: it would not
  bool moves = false;         // bytes as they are: the first touch to the second
  bool gives_input = false;   // compute: the gradient of its input
  std::vector<bool> present;  // compute: which slots, then which gradients
};

// What is seen of a phase beside memory.
struct Observed {
  std::vector<uint64_t> losses, norms;
  bool operator==(const Observed&) const = default;
};

// The executor starts an op in the order of the lane that the schedule says, and runs it where its kind says.
Lane runs_on(const Op& op);
inline bool one_after_another(Lane lane) { return lane != Lane::read && lane != Lane::write; }

// What updates are made with: as different as their learning rate, step and clip factor.
struct Settings {
  uint64_t update = 0, early_update = 0;
};

// What is the same for all ops of a schedule.
struct Stage {
  const std::vector<Buffer>& buffers;
  const std::array<Bytes, kTierCount>& capacity;
  const JobShape& shape;
  Phase phase;
  Settings settings;
};

Act act_of(const Op& op, const Stage& stage);

// values: what was read, per touch; on return what is written. `garbage` is what scratch is left with.
void perform(const Op& op, const Act& act, const Stage& stage, uint64_t garbage, std::vector<Pages>& values,
             Observed& observed);

}  // namespace sluice::plan
