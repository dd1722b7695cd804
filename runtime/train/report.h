// A profile or a study as one HTML file that needs nothing else: no network, no other file.
#pragma once

#include <filesystem>
#include <string>

namespace sluice::train {

// `json`: of `sluice profile --json`, or of a study. The page comes from $SLUICE_REPORT_DIR, else from `report` beside
// the binary or the library, else from the source folder named at build, and so does plotly's bundle (plotly.min.js
// there, else where the build found it). Throws SetupError when they are not there, RunError when the file cannot be
// written.
void write_report(const std::filesystem::path& file, const std::string& json);
// Throws as that does when they are not there: to be asked before what takes long.
void check_report();

}  // namespace sluice::train
