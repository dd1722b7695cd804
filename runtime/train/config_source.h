// A job's YAML and its command line, taken apart: one value per key, each with the place it came from. What the
// values mean is config.cpp's subject.
#pragma once

#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace sluice::train {

struct Setting {
  std::string key;       // the canonical name, "offload.max_gpu"
  std::string spelling;  // as the user wrote it, with "offload." before it
  std::string origin;    // the file, or "command line"
  bool has_lines = false;
  YAML::Node value;
  YAML::Mark key_mark;

  // "job.yaml:12:3": of the key, or of a node below it.
  std::string place() const { return place_of(key_mark); }
  std::string place_of(const YAML::Mark& mark) const;
};

struct Settings {
  std::map<std::string, Setting, std::less<>> values;  // by canonical name; keys set to null are not here
  std::vector<std::string> notes;

  const Setting* find(std::string_view key) const;
};

// Throws SetupError: no such file, not YAML, a key twice, under two names, unknown, or known and not supported.
Settings read_settings(const std::filesystem::path& yaml, const std::vector<std::string>& overrides);

}  // namespace sluice::train
