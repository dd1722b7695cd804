// A few equal buffers taken in turn: how far a lane may run ahead of the one that follows it.
#pragma once

#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/plan/layout.h"

namespace sluice::plan {

class RingSet {
 public:
  explicit RingSet(Layout& layout) : layout_(layout) {}

  // The buffer of ring `name` whose last use in program order is oldest. Its old content is gone.
  BufferId next(const BufferName& name, int depth, Tier tier, Tag tag, int64_t bytes);
  // The buffer that holds `key`, or the oldest one, which then holds it. second: it was there already.
  std::pair<BufferId, bool> cached(const BufferName& name, int depth, Tier tier, Tag tag, int64_t bytes, int key);
  // An op uses the buffer.
  void touch(BufferId buffer);

 private:
  struct Entry {
    BufferId buffer = kNone;
    int key = kNone;
    int64_t last_use = -1;
  };
  using Ring = std::vector<Entry>;
  Ring& ring(const BufferName& name, int depth, Tier tier, Tag tag, int64_t bytes);
  Entry& oldest(Ring& ring);

  Layout& layout_;
  std::unordered_map<BufferName, Ring> rings_;
  std::vector<Entry*> entry_of_;  // by buffer; null: of no ring
  int64_t clock_ = 0;
};

}  // namespace sluice::plan
