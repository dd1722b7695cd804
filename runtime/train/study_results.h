// What a study has found so far, cell by cell, in files that survive being stopped; and as tables.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/train/study.h"

namespace sluice::train {

enum class CellState {
  open,      // neither planned nor run
  planned,   // fits
  measured,  // profiled
  skipped,   // what it takes is not here: memory, a device, ...
  failed     // it ran, and broke
};

struct CellResult {
  CellState state = CellState::open;
  std::string plan;         // JSON of `sluice plan --json`; empty: none
  std::string profile;      // JSON of `sluice profile --json`; empty: none
  std::string reason;       // why it was skipped or failed
  double plan_seconds = 0;  // that planning took, the job's preparation included
};

// A file's bytes; empty where there is none.
std::string text_of(const std::filesystem::path& file);
// Whether it is one whole JSON value.
bool is_json(const std::string& text);

// Files cells/*.json of a folder, a cell each. Not thread-safe.
class CellStore {
 public:
  // `context`: what results depend on beside the cell's settings (the base job's text, the machine, steps): with
  // another one, other results.
  CellStore(std::filesystem::path folder, std::string context);

  // Nothing when there is none, or it is no result that was written whole.
  std::optional<CellResult> find(const StudyCell& cell) const;
  // On the drive when it returns. Throws RunError.
  void save(const StudyCell& cell, const CellResult& result) const;

 private:
  std::filesystem::path file_of(const StudyCell& cell) const;

  std::filesystem::path folder_;
  std::string context_;
};

struct StudyResults {
  std::string machine;  // what it was run on, or planned for
  bool planned_only = false;
  std::vector<CellResult> cells;  // as Study::cells
};

// One object: {"kind": "study", "cells": [{"settings", "status", "tokens_per_second", ...}], "published": [...]}. With
// `details`, each cell has its plan and profile too.
enum class Details { left_out, included };
std::string to_json(const Study& study, const StudyResults& results, Details details);
std::string to_csv(const Study& study, const StudyResults& results);
std::string to_markdown(const Study& study, const StudyResults& results);

}  // namespace sluice::train
