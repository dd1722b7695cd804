#include "runtime/plan/layout.h"

#include "runtime/core/check.h"
#include "runtime/plan/buffer_names.h"

namespace sluice::plan {

BufferId Layout::lasting(const BufferName& name, Tier tier, Tag tag, int64_t bytes) {
  return find_or_add(name, tier, tag, bytes, true);
}

BufferId Layout::passing(const BufferName& name, Tier tier, Tag tag, int64_t bytes) {
  return find_or_add(name, tier, tag, bytes, false);
}

BufferId Layout::find_or_add(const BufferName& name, Tier tier, Tag tag, int64_t bytes, bool persistent) {
  if (const auto found = by_name_.find(name); found != by_name_.end()) {
    const Buffer& buffer = at(found->second);
    SLUICE_CHECK(buffer.tier == tier && buffer.wanted_bytes == bytes,
                 "buffer " + name.text() + " asked for with another shape");
    return found->second;
  }
  SLUICE_CHECK(!frozen_, "a schedule asks for buffer " + name.text() + " after the arenas were sized");
  SLUICE_CHECK(bytes > 0, "buffer " + name.text() + " is empty");
  auto& end = end_[static_cast<size_t>(tier)];
  const int64_t rounded = round_up(bytes, 4096);
  buffers_.push_back({tier, tag, end, rounded, bytes, persistent, name});
  end += rounded;
  const auto id = static_cast<BufferId>(buffers_.size() - 1);
  by_name_.emplace(name, id);
  return id;
}

BufferId Layout::find(const BufferName& name) const {
  const auto found = by_name_.find(name);
  SLUICE_CHECK(found != by_name_.end(), "no buffer is called " + name.text());
  return found->second;
}

MemoryUse Layout::memory() const {
  MemoryUse use;
  for (const Buffer& buffer : buffers_) {
    const auto tier = static_cast<size_t>(buffer.tier);
    use.by_tag[tier][static_cast<size_t>(buffer.tag)] += Bytes{buffer.bytes};
    if (is_trained_on_disk(buffer) && !is_second_set(buffer)) use.trained_on_disk += Bytes{buffer.bytes};
  }
  for (size_t tier = 0; tier < kTierCount; ++tier) use.peak[tier] = Bytes{end_[tier]};
  return use;
}

}  // namespace sluice::plan
