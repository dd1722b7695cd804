#include "runtime/plan/timeline.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace sluice::plan {
namespace {

std::string what_of(const Op& op, const JobShape& shape) {
  std::string text(name_of(op.kind));
  if (op.block != kNone) text += ' ' + shape.blocks[static_cast<size_t>(op.block)].name;
  if (op.block == kNone && op.group != kNone) text += ' ' + shape.groups[static_cast<size_t>(op.group)].name;
  return text;
}

// Spans alike, or whatever they are within a gap that short, become one; what lasts longest names it.
std::vector<Span> merged(const std::vector<Span>& spans, double gap_us) {
  std::vector<Span> kept;
  double longest_us = 0;
  for (const Span& span : spans) {
    const double length_us = span.when.end.count - span.when.begin.count;
    const bool same_lane = !kept.empty() && kept.back().lane == span.lane;
    const bool near = same_lane && span.when.begin.count - kept.back().when.end.count <= gap_us;
    const bool short_too = near && longest_us < gap_us && length_us < gap_us;
    if (!near || (kept.back().what != span.what && !short_too)) {
      kept.push_back(span);
      longest_us = length_us;
      continue;
    }
    if (length_us > longest_us) kept.back().what = span.what;
    longest_us = std::max(longest_us, length_us);
    kept.back().when.end = std::max(kept.back().when.end, span.when.end);
  }
  return kept;
}

}  // namespace

std::vector<Span> timeline_of(const Schedule& schedule, const std::vector<Slice>& ops, const JobShape& shape,
                              size_t most) {
  SLUICE_CHECK(ops.size() == schedule.ops.size(), "the slices are of another schedule");
  std::vector<Span> spans;
  double time_us = 0;
  for (size_t id = 0; id < ops.size(); ++id) {
    spans.push_back({schedule.ops[id].lane, ops[id], what_of(schedule.ops[id], shape)});
    time_us = std::max(time_us, ops[id].end.count);
  }
  std::stable_sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return a.lane != b.lane ? a.lane < b.lane : a.when.begin < b.when.begin;
  });
  constexpr double kUnseen = 1e-4;  // of the picture's width
  std::vector<Span> kept = merged(spans, time_us * kUnseen);
  for (double share = 2 * kUnseen; kept.size() > most && share < 1; share *= 2) kept = merged(kept, time_us * share);
  return kept;
}

}  // namespace sluice::plan
