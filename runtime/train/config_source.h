// A job's YAML and its command line, taken apart: one value per key, each with the place it came from. What the
// values mean is config.cpp's subject.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/train/config_document.h"

namespace sluice::train {

struct Setting {
  std::string key;       // the canonical name, "offload.max_gpu"
  std::string spelling;  // as the user wrote it, with "offload." before it
  std::string origin;    // the file, or "command line"
  Position position;     // of the key; none on the command line
  DocumentValue value;

  // "job.yaml:12:3": of the key, of its value or of a part of it.
  std::string place() const { return place_of(position); }
  std::string place_of(Position part) const;
};

// What is wrong with a job, gathered, so that its user reads all of it at once.
class Problems {
 public:
  void add(const Setting& setting, const std::string& what, std::string fix);  // at the setting's key
  void add(int line, std::string what, std::string fix);                       // line 0: no line
  // Throws one SetupError that names all, in the order of the file, the command line's last.
  void throw_if_any();

 private:
  struct Problem {
    int line;
    std::string what, fix;
  };
  std::vector<Problem> problems_;
};

struct Settings {
  // By canonical name, or another trainer's for keys whose value decides; keys set to null are not here.
  std::map<std::string, Setting, std::less<>> values;
  std::vector<std::string> notes;
  Problems problems;

  const Setting* find(std::string_view key) const;
};

// Throws SetupError: cannot be read.
std::string read_job_file(const std::filesystem::path& file);

// `origin` names the text in messages. Throws SetupError: not YAML. Keys that are given twice, under two names,
// unknown, or known and not supported are in `problems`; the caller adds its own and throws.
Settings read_settings(const std::string& yaml, const std::string& origin, const std::vector<std::string>& overrides);

}  // namespace sluice::train
