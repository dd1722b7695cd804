// Which ops of a run may collide under another timing: found without the sparse rows that verify keeps, by one bit for
// every pair of ops.
#include <algorithm>

#include "tests/unit/plan/reference_interpreter.h"

namespace sluice::plan {
namespace {

class Ended {
 public:
  explicit Ended(size_t ops) : words_((ops + 63) / 64), bits_(ops * words_, 0) {}

  // What had ended when `before` began has ended when `id` begins, and maybe `before` itself.
  void inherit(OpId id, OpId before, bool itself) {
    for (size_t word = 0; word < words_; ++word) row(id)[word] |= row(before)[word];
    if (itself) row(id)[static_cast<size_t>(before) / 64] |= uint64_t{1} << (before % 64);
  }
  bool has(OpId id, OpId other) { return (row(id)[static_cast<size_t>(other) / 64] >> (other % 64) & 1) != 0; }

 private:
  uint64_t* row(OpId id) { return &bits_[static_cast<size_t>(id) * words_]; }

  const size_t words_;
  std::vector<uint64_t> bits_;
};

struct Use {
  OpId writer = kNone;
  std::vector<OpId> readers;  // since
};

}  // namespace

std::vector<Interpreter::Pair> Interpreter::unordered_conflicts() const {
  Ended ended(schedule_.ops.size());
  std::array<std::vector<Use>, kTierCount> uses;
  for (size_t tier = 0; tier < kTierCount; ++tier) uses[tier].resize(memory_[tier].size());
  std::array<OpId, kLaneCount> previous;
  previous.fill(kNone);
  std::vector<Pair> pairs;
  for (const OpId id : began_) {
    for (OpId before : op(id).after) ended.inherit(id, before, true);
    OpId& in_lane = previous[static_cast<size_t>(op(id).lane)];
    const Lane lane = runs_on(op(id));
    if (in_lane != kNone && in_lane < id)
      ended.inherit(id, in_lane, runs_on(op(in_lane)) == lane && one_after_another(lane));
    in_lane = std::max(in_lane, id);
    const auto check = [&](OpId other) {
      if (other != kNone && other != id && !ended.has(id, other)) pairs.push_back({other, id});
    };
    for (const Touch& touch : acts_[static_cast<size_t>(id)].touches)
      for (size_t p = touch.first; p < touch.first + touch.count; ++p) {
        Use& use = uses[touch.tier][p];
        check(use.writer);
        if (touch.writes) {
          for (OpId reader : use.readers) check(reader);
          use = {id, {}};
        } else if (use.writer != id) {
          use.readers.push_back(id);
        }
      }
  }
  std::sort(pairs.begin(), pairs.end());
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
  return pairs;
}

}  // namespace sluice::plan
