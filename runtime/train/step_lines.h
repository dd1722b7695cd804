// What people and programs see of a run's steps while it goes: on a terminal one line that lives, elsewhere a line for
// a step, or JSON.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "runtime/core/console.h"
#include "runtime/core/live_line.h"
#include "runtime/core/units.h"
#include "runtime/train/metrics.h"

namespace sluice::train {

// "step  12/100  loss 2.3456  ...". `colour`: numbers stand out by escape sequences.
struct ProgressStyle {
  bool colour = false;
};
std::string progress_text(const StepRecord& record, int64_t steps_total, double seconds_left, ProgressStyle style);

// Where a run is.
struct RunState {
  std::optional<StepRecord> last;  // none before the first step has ended
  int64_t steps_done = 0, steps_total = 0;
  double step_share = 0;  // of the step that runs
  double seconds_left = 0;
  Bytes resident;           // of this process
  bool has_device = false;  // memory apart from the host's
};
// As much of it as so many columns hold, the most wanted first; escape sequences do not count.
std::string run_text(const RunState& state, int columns, ProgressStyle style);

enum class StepOutput : uint8_t {
  none,
  lines,  // the live line where it draws on the same stream; else every so many steps, the first and the last
  json    // the log's line, for each step
};

struct StepLinesOptions {
  StepOutput output = StepOutput::lines;
  int64_t steps_total = 0, steps_before = 0;  // of the whole job; done by earlier runs
  int64_t every = 1;
  bool has_device = false;
};

// Of stdout. Not thread-safe.
class StepLines {
 public:
  // Both are longer there than this.
  StepLines(Console& console, LiveLine& live, const StepLinesOptions& options);
  // How much of the step that runs is done.
  void advanced(double share);
  // Once per step, in order.
  void ended(const StepRecord& record);

 private:
  double seconds_left(const StepRecord& record);
  void draw();

  Console& console_;
  LiveLine& live_;
  const StepLinesOptions options_;
  const bool lives_;
  ProgressStyle style_;
  RunState state_;
  int64_t first_step_ = 0;  // 0: none has ended yet
  std::chrono::steady_clock::time_point first_end_;
};

}  // namespace sluice::train
