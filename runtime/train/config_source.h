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

struct Settings {
  std::map<std::string, Setting, std::less<>> values;  // by canonical name; keys set to null are not here
  std::vector<std::string> notes;

  const Setting* find(std::string_view key) const;
};

// Throws SetupError: no such file, not YAML, a key twice, under two names, unknown, or known and not supported.
Settings read_settings(const std::filesystem::path& yaml, const std::vector<std::string>& overrides);

}  // namespace sluice::train
