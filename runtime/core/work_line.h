// How far long work is, for people: a line that lives on a terminal, a line per tenth elsewhere.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <string>

#include "runtime/core/console.h"
#include "runtime/core/live_line.h"
#include "runtime/core/work.h"

namespace sluice {

// "[#####.....]", of so many columns: at least 3.
std::string bar_text(double share, int columns);

struct WorkState {
  std::string what;
  int64_t done = 0, total = 0;
  WorkUnit unit = WorkUnit::bytes;
  double seconds = 0;
};
// As much of it as so many columns hold: "verifying checkpoint-40  [#####.....]  52%  1.20 of 2.31 GiB  ...".
std::string work_text(const WorkState& state, int columns);

class WorkLine : public WorkObserver {
 public:
  // `lines`: for where the live line does not draw. Both must outlive it.
  WorkLine(LiveLine& live, Console& lines) : live_(live), lines_(lines) {}
  void work_began(const std::string& what, int64_t total, WorkUnit unit) override;
  void work_advanced(int64_t done) override;
  void work_ended() override;

 private:
  std::string due_line();

  LiveLine& live_;
  Console& lines_;
  std::mutex mutex_;
  WorkState state_;
  int tenths_said_ = 0;
  double next_said_s_ = 0;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace sluice
