// Fixed places for every buffer that any schedule of a job uses. Buffers are asked for by name while schedules are
// built; `freeze` ends that, and from then on nothing can be added: what was planned is all there will be.
#pragma once

#include <unordered_map>
#include <vector>

#include "runtime/plan/schedule.h"

namespace sluice::plan {

class Layout {
 public:
  // The same name gives the same buffer. Asking for it with another size or tier is a CHECK failure.
  // Lasting buffers keep their content from one phase to the next; passing ones do not.
  BufferId lasting(const BufferName& name, Tier tier, Tag tag, int64_t bytes);
  BufferId passing(const BufferName& name, Tier tier, Tag tag, int64_t bytes);
  BufferId find(const BufferName& name) const;  // CHECK failure when there is none
  void freeze() { frozen_ = true; }

  const std::vector<Buffer>& buffers() const { return buffers_; }
  const Buffer& at(BufferId id) const { return buffers_[static_cast<size_t>(id)]; }
  MemoryUse memory() const;

 private:
  BufferId find_or_add(const BufferName& name, Tier tier, Tag tag, int64_t bytes, bool persistent);

  bool frozen_ = false;
  std::array<int64_t, kTierCount> end_{};
  std::vector<Buffer> buffers_;
  std::unordered_map<BufferName, BufferId> by_name_;
};

}  // namespace sluice::plan
