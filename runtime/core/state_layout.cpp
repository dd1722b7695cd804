#include "runtime/core/state_layout.h"

#include <algorithm>

#include "runtime/core/units.h"

namespace sluice {
namespace {

constexpr std::array<std::string_view, 3> kFormatNames = {"fp32", "bf16", "8bit"};

Dtype moment_dtype(MomentFormat format) {
  switch (format) {
    case MomentFormat::f32:
      return Dtype::f32;
    case MomentFormat::bf16:
      return Dtype::bf16;
    case MomentFormat::int8:
      return Dtype::u8;
  }
  return Dtype::f32;
}

int64_t blocks_before(int64_t element) { return round_up(element, kStateBlock) / kStateBlock; }

}  // namespace

std::string_view name_of(MomentFormat format) { return kFormatNames[static_cast<size_t>(format)]; }

std::string_view name_of(UpdateRule rule) { return rule == UpdateRule::adamw ? "adamw" : "lion"; }

std::optional<MomentFormat> moment_format(std::string_view name) {
  const auto found = std::find(kFormatNames.begin(), kFormatNames.end(), name);
  if (found == kFormatNames.end()) return std::nullopt;
  return static_cast<MomentFormat>(found - kFormatNames.begin());
}

std::string_view name_of(StatePart part) {
  constexpr std::array<std::string_view, kStateParts> names = {
      "exp_avg", "exp_avg_sq", "master", "exp_avg.scales", "exp_avg_sq.scales", "exp_avg.exact", "exp_avg_sq.exact"};
  return names[static_cast<size_t>(part)];
}

StateLayout::StateLayout(MomentFormat moments, Dtype weights, std::vector<ElementRange> exact,
                         std::vector<ElementRange> gaps, UpdateRule rule)
    : moments_(moments), weights_(weights), exact_(std::move(exact)), gaps_(std::move(gaps)), rule_(rule) {
  SLUICE_CHECK(weights == Dtype::f32 || weights == Dtype::bf16 || weights == Dtype::f16, "weights are floating point");
  SLUICE_CHECK((exact_.empty() && gaps_.empty()) || moments == MomentFormat::int8,
               "moments in floating point are all of one format");
  int64_t last = 0;
  for (const ElementRange& range : exact_) {
    SLUICE_CHECK(last <= range.begin && range.begin < range.end, "exact ranges ascend");
    SLUICE_CHECK(range.begin % kStateBlock == 0 && range.end % kStateBlock == 0, "exact ranges are whole blocks");
    last = range.end;
  }
  last = 0;
  for (const ElementRange& range : gaps_) {
    SLUICE_CHECK(last <= range.begin && range.begin < range.end && range.end % kStateBlock == 0,
                 "gaps ascend and end with a block");
    last = range.end;
  }
}

StateLayout::Run StateLayout::run_at(int64_t element, int64_t end) const {
  Run run{Kind::plain, end};
  const auto look_at = [&](const std::vector<ElementRange>& ranges, Kind kind) {
    for (const ElementRange& range : ranges) {
      if (element >= range.end) continue;
      if (element >= range.begin) run.kind = kind;
      run.end = std::min(run.end, element >= range.begin ? range.end : range.begin);
      return;
    }
  };
  look_at(exact_, Kind::exact);
  look_at(gaps_, Kind::gap);
  return run;
}

int64_t StateLayout::exact_before(int64_t element) const {
  int64_t count = 0;
  for (const ElementRange& range : exact_) count += std::clamp(element, range.begin, range.end) - range.begin;
  return count;
}

StateSpans StateLayout::spans(int64_t begin, int64_t end) const {
  StateSpans spans;
  const auto set = [&](StatePart part, Dtype dtype, int64_t first, int64_t last) {
    const bool of_v = part == StatePart::v || part == StatePart::v_scales || part == StatePart::v_exact;
    if (of_v && rule_ == UpdateRule::lion) return;
    spans[static_cast<size_t>(part)] = {dtype, first, last - first, 0};
  };
  set(StatePart::m, moment_dtype(moments_), begin, end);
  set(StatePart::v, moment_dtype(moments_), begin, end);
  if (weights_ != Dtype::f32) set(StatePart::master, weights_ == Dtype::bf16 ? Dtype::i16 : Dtype::f32, begin, end);
  if (moments_ == MomentFormat::int8) {
    for (const StatePart part : {StatePart::m_scales, StatePart::v_scales})
      set(part, Dtype::f32, begin / kStateBlock, blocks_before(end));
    for (const StatePart part : {StatePart::m_exact, StatePart::v_exact})
      set(part, Dtype::f32, exact_before(begin), exact_before(end));
  }
  int64_t offset = 0;
  for (StateSpan& span : spans) {
    span.offset = offset;
    offset += round_up(span.bytes(), kTensorAlignmentBytes);
  }
  return spans;
}

int64_t StateLayout::bytes(int64_t begin, int64_t end) const {
  const StateSpan last = spans(begin, end).back();
  return last.offset + round_up(last.bytes(), kTensorAlignmentBytes);
}

}  // namespace sluice
