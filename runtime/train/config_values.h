// One YAML value to one typed value. What does not fit is refused with its place, what was expected, and an example.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/units.h"
#include "runtime/train/config_source.h"

namespace sluice::train {

// At the setting's key.
[[noreturn]] void refuse(const Setting& setting, const std::string& what, const std::string& fix);
// "job.yaml:3:19: micro_batch_size must be <expected>, not 'two'", with `example` as the fix.
[[noreturn]] void refuse_value(const Setting& setting, std::string_view expected, std::string_view example);
[[noreturn]] void refuse_value(const Setting& setting, const DocumentValue& part, const std::string& name,
                               std::string_view expected, std::string_view example);

// Two keys that exclude one another, both given.
[[noreturn]] void refuse_both_of(const Setting& one, const Setting& other, const std::string& fix);
// The setting of `key`; where the job of `file` lacks it, refused with the example.
const Setting& required(const Settings& settings, const std::filesystem::path& file, std::string_view key,
                        const std::string& example);

struct IntegerRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};
struct NumberRange {
  double min = 0;
  double max = std::numeric_limits<double>::infinity();
  enum class Ends { both, above_min, below_max } ends = Ends::both;  // which ends belong to the range
};

bool read_bool(const Setting& setting);
int64_t read_integer(const Setting& setting, IntegerRange range, std::string_view example);
double read_number(const Setting& setting, NumberRange range, std::string_view example);
std::string read_text(const Setting& setting, std::string_view example);
// A leading "~/" is the home directory, as in a shell.
std::filesystem::path read_path(const Setting& setting, std::string_view example);
std::filesystem::path expand_home(const std::string& path);
// One text, texts separated by commas, or a list.
std::vector<std::string> read_texts(const Setting& setting, std::string_view example);
// One path or a list.
std::vector<std::filesystem::path> read_paths(const Setting& setting, std::string_view example);
// "22GiB", "4096MB", "1.5TiB": always with a unit.
Bytes read_size(const Setting& setting);
// "90s", "30min", "1.5h", "2d": always with a unit, at most 365d.
std::chrono::seconds read_duration(const Setting& setting);

template <class Value>
struct Choice {
  std::string_view name;
  Value value;
};

std::string joined(const std::vector<std::string_view>& names, std::string_view last);

template <class Value, size_t count>
Value read_choice(const Setting& setting, const std::array<Choice<Value>, count>& choices) {
  std::vector<std::string_view> names;
  for (const Choice<Value>& choice : choices) {
    if (setting.value.is_text() && setting.value.text == choice.name) return choice.value;
    if (std::find(names.begin(), names.end(), choice.name) == names.end()) names.push_back(choice.name);
  }
  refuse_value(setting, joined(names, " or "), names.front());
}

}  // namespace sluice::train
