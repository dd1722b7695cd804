// A study as its YAML says it: one job, and settings of it that vary over a grid. Keys: configs/README.md.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace sluice::train {

// One job of the grid.
struct StudyCell {
  std::vector<std::pair<std::string, std::string>> labels;  // per axis: its name, and what it has here
  std::map<std::string, std::string> settings;              // canonical key -> YAML; over the base job's
  std::string name() const;                                 // "adapter=lora, micro_batch_size=2"
  std::vector<std::string> overrides() const;               // "KEY=YAML", as load_config takes them
};

// What others have published of such a job, to be shown beside what is found here.
struct PublishedFigure {
  std::string what;
  std::map<std::string, std::string> where;  // axis -> what it has; cells with all of these are meant
  double tokens_per_second = 0;              // 0: `words` say it
  std::string words;
  std::string source;
};

struct Study {
  std::filesystem::path file;
  std::string title;
  std::filesystem::path base;        // the job's YAML
  std::filesystem::path output_dir;  // of the results
  int64_t steps = 5;                 // measured of each cell
  std::vector<StudyCell> cells;      // the last axis varies fastest
  std::vector<PublishedFigure> published;
};

// Whether the YAML is a study's: it has `grid`. Throws SetupError: no such file, not YAML.
bool is_study(const std::filesystem::path& file);

// `overrides`: "KEY=VALUE" of the command line, over the base job's settings in every cell; `output_dir` is the
// study's. Reads the base job with each cell's settings. Throws SetupError: a key that does not exist, with file, line
// and the nearest that does; a cell that makes no job.
Study read_study(const std::filesystem::path& file, const std::vector<std::string>& overrides);

}  // namespace sluice::train
