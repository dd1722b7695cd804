// What is known of a step, and the log that keeps it: a line of trainer_log.jsonl each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/train/output_file.h"

namespace sluice::train {

// The keys and their order are a contract (design.md, "The outside of it"). Steps count from 1 here.
struct StepRecord {
  int64_t step = 0;
  double loss = 0;  // mean over the step's supervised tokens
  double grad_norm = 0;
  double learning_rate = 0;
  int64_t tokens = 0;
  double step_seconds = 0;
  double tokens_per_second = 0;
  double bound_seconds = 0;
  double percent_of_bound = 0;
  std::string_view binding_lane;  // name_of(Lane): outlives the record
  int64_t device_peak_bytes = 0;
  int64_t host_peak_bytes = 0;
  int64_t disk_read_bytes = 0;
  int64_t disk_write_bytes = 0;
  // Of fp16 only: the scale that the step's gradients were made with, and whether they overflowed.
  std::optional<double> loss_scale;
  bool skipped = false;
};

// One line of JSON without its end. A number that is not finite becomes null: JSON has none.
std::string to_json_line(const StepRecord& record);

// The step of a line of trainer_log.jsonl; nothing when it is no such line.
std::optional<int64_t> step_of_line(const std::string& line);

// trainer_log.jsonl. Not thread-safe.
class StepLog {
 public:
  // Keeps the lines of the first `steps_kept` steps that the file may hold; later ones belong to a run that was
  // killed after its last checkpoint, and are dropped. Throws SetupError when the file is no log, RunError when it
  // cannot be written.
  StepLog(const std::filesystem::path& file, int64_t steps_kept, const SpacePatience& patience = {});

  // In the file when it returns; on the drive at some later call. Throws RunError.
  void append(const StepRecord& record);
  // Before the checkpoint that the lines belong to: it must not outlive them. Throws RunError.
  void sync();

 private:
  SpacePatience patience_;
  OutputFile file_;
  std::string unsynced_;  // lines since the last sync: one that finds no room may lose them
};

// Whether escape sequences belong on this stream: a terminal, NO_COLOR unset or empty, TERM not "dumb".
bool wants_colour(int descriptor);

}  // namespace sluice::train
