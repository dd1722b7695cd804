// Runs a study: plans every cell, says how long it will take, profiles what fits, and keeps what it found.
#pragma once

#include <filesystem>

#include "runtime/train/study.h"

namespace sluice::train {

struct StudyOptions {
  std::filesystem::path machine;  // plan for the machine of this file and run nothing; empty: this machine
  bool plan_only = false;
};

// Each cell is a process of its own, of this very binary: none sees what another left in memory, and one that is killed
// for its memory is one cell's failure. Prints to stdout a line per cell; writes study.csv, study.md, study.json and
// report.html into the study's output_dir, which it locks. What was measured before, with the same settings, base job,
// machine and version, is not measured again. Returns the exit code: 3 where a cell failed, 128 + a signal's number
// where one stopped it. Throws SetupError and RunError.
int run_study(const Study& study, const StudyOptions& options);

// The environment of a cell's process has the study's process id in it: it ends with the study.
inline constexpr const char* kEndsWithParent = "SLUICE_ENDS_WITH_PARENT";

}  // namespace sluice::train
