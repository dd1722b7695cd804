// Which ops of a phase have ended: what the lanes of a device wait for each other with.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/plan/schedule.h"

namespace sluice::exec {

// Any thread.
class OpBoard {
 public:
  void reset(size_t ops);
  void end(plan::OpId op);
  // Nobody waits any longer, until the next reset.
  void abandon();
  // Blocks until all have ended. False: abandoned.
  bool wait(std::span<const plan::OpId> ops);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint8_t> ended_;
  bool abandoned_ = false;
};

}  // namespace sluice::exec
