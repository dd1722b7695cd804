#include "runtime/exec/op_board.h"

#include <algorithm>

namespace sluice::exec {

void OpBoard::reset(size_t ops) {
  const std::lock_guard lock(mutex_);
  ended_.assign(ops, 0);
  abandoned_ = false;
}

void OpBoard::end(plan::OpId op) {
  {
    const std::lock_guard lock(mutex_);
    ended_[static_cast<size_t>(op)] = 1;
  }
  changed_.notify_all();
}

void OpBoard::abandon() {
  {
    const std::lock_guard lock(mutex_);
    abandoned_ = true;
  }
  changed_.notify_all();
}

bool OpBoard::wait(std::span<const plan::OpId> ops) {
  const auto ended = [&] {
    return std::all_of(ops.begin(), ops.end(), [&](plan::OpId op) { return ended_[static_cast<size_t>(op)] != 0; });
  };
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return abandoned_ || ended(); });
  return !abandoned_;
}

}  // namespace sluice::exec
