#include "runtime/plan/op_order.h"

#include <algorithm>

namespace sluice::plan {

// --- rows --------------------------------------------------------------------------------------------------------

bool OpOrder::Row::has(int transfer) const {
  return transfer < end && !std::binary_search(missing.begin(), missing.end(), transfer);
}

void OpOrder::Row::add(int transfer) {
  for (; end <= transfer; ++end)
    if (end < transfer) missing.push_back(end);
  const auto found = std::lower_bound(missing.begin(), missing.end(), transfer);
  if (found != missing.end() && *found == transfer) missing.erase(found);
}

void OpOrder::Row::add(const Row& other) {
  for (size_t lane = 0; lane < kLaneCount; ++lane) last[lane] = std::max(last[lane], other.last[lane]);
  const Row& longer = end >= other.end ? *this : other;
  const Row& shorter = end >= other.end ? other : *this;
  std::vector<int> both;
  auto at = shorter.missing.begin();
  for (const int transfer : longer.missing) {
    while (at != shorter.missing.end() && *at < transfer) ++at;
    if (transfer >= shorter.end || (at != shorter.missing.end() && *at == transfer)) both.push_back(transfer);
  }
  end = longer.end;
  missing = std::move(both);
}

// --- the order -----------------------------------------------------------------------------------------------------

OpOrder::OpOrder(const Schedule& schedule)
    : schedule_(schedule), place_(schedule.ops.size()), rows_(schedule.ops.size()), looks_(schedule.ops.size(), 0) {
  int transfers = 0;
  std::array<int, kLaneCount> next{};
  previous_.fill(kNone);
  for (size_t id = 0; id < place_.size(); ++id) {
    const Op& op = schedule.ops[id];
    place_[id] = is_transfer(op.lane) ? transfers++ : next[static_cast<size_t>(op.lane)]++;
    for (OpId before : op.after) ++looks_[static_cast<size_t>(before)];
    OpId& in_lane = previous_[static_cast<size_t>(op.lane)];
    if (in_lane != kNone) ++looks_[static_cast<size_t>(in_lane)];
    in_lane = static_cast<OpId>(id);
  }
  previous_.fill(kNone);
}

void OpOrder::begin(OpId id) {
  const Op& op = schedule_.ops[static_cast<size_t>(id)];
  current_ = {};
  for (OpId before : op.after) look(before, true);
  OpId& in_lane = previous_[static_cast<size_t>(op.lane)];
  if (in_lane != kNone) look(in_lane, !is_transfer(op.lane));
  in_lane = id;
  if (looks_[static_cast<size_t>(id)] > 0) rows_[static_cast<size_t>(id)] = current_;
}

bool OpOrder::ended(OpId other) const {
  const auto id = static_cast<size_t>(other);
  const Lane lane = schedule_.ops[id].lane;
  return is_transfer(lane) ? current_.has(place_[id]) : current_.last[static_cast<size_t>(lane)] >= place_[id];
}

void OpOrder::look(OpId before, bool ended) {
  const auto id = static_cast<size_t>(before);
  current_.add(rows_[id]);
  if (--looks_[id] == 0) rows_[id] = {};
  if (!ended) return;
  const Lane lane = schedule_.ops[id].lane;
  if (is_transfer(lane)) {
    current_.add(place_[id]);
  } else {
    int& last = current_.last[static_cast<size_t>(lane)];
    last = std::max(last, place_[id]);
  }
}

}  // namespace sluice::plan
