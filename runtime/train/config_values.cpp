#include "runtime/train/config_values.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <span>
#include <sstream>

#include "runtime/core/result.h"

namespace sluice::train {

void refuse_value(const Setting& setting, const DocumentValue& part, const std::string& name, std::string_view expected,
                  std::string_view example) {
  throw SetupError(
      setting.place_of(part.position) + ": " + name + " must be " + std::string(expected) + ", not " + shown(part),
      "for example: " + name + ": " + std::string(example));
}

void refuse_value(const Setting& setting, std::string_view expected, std::string_view example) {
  refuse_value(setting, setting.value, setting.spelling, expected, example);
}

namespace {

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::string_view scalar_of(const Setting& setting) {
  return setting.value.is_text() ? std::string_view(setting.value.text) : std::string_view();
}

std::string text_of(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  return text;
}

std::string describe(IntegerRange range) {
  const bool below = range.max == std::numeric_limits<int64_t>::max();
  return "a whole number from " + std::to_string(range.min) + (below ? "" : " to " + std::to_string(range.max));
}

std::string describe(NumberRange range) {
  using enum NumberRange::Ends;
  const bool bounded = std::isfinite(range.max);
  std::string text = std::string("a number ") + (range.ends == above_min ? "above " : "from ") + text_of(range.min);
  if (bounded) text += (range.ends == below_max ? " to below " : " to ") + text_of(range.max);
  return text;
}

bool holds(NumberRange range, double number) {
  using enum NumberRange::Ends;
  if (!std::isfinite(number) || number < range.min || number > range.max) return false;
  return !(range.ends == above_min && number == range.min) && !(range.ends == below_max && number == range.max);
}

}  // namespace

void refuse(const Setting& setting, const std::string& what, const std::string& fix) {
  throw SetupError(setting.place() + ": " + what, fix);
}

void refuse_both_of(const Setting& one, const Setting& other, const std::string& fix) {
  refuse(other, one.spelling + " and " + other.spelling + " exclude one another", fix);
}

const Setting& required(const Settings& settings, const std::filesystem::path& file, std::string_view key,
                        const std::string& example) {
  if (const Setting* setting = settings.find(key)) return *setting;
  throw SetupError(file.string() + ": " + std::string(key) + " is missing",
                   "add, for example: " + std::string(key) + ": " + example);
}

bool read_bool(const Setting& setting) {
  const std::optional<bool> truth = as_bool(scalar_of(setting));
  if (!truth) refuse_value(setting, "true or false", "true");
  return *truth;
}

int64_t read_integer(const Setting& setting, IntegerRange range, std::string_view example) {
  const auto number = parse_number<int64_t>(scalar_of(setting));
  if (!number || *number < range.min || *number > range.max) refuse_value(setting, describe(range), example);
  return *number;
}

double read_number(const Setting& setting, NumberRange range, std::string_view example) {
  const auto number = parse_number<double>(scalar_of(setting));
  if (!number || !holds(range, *number)) refuse_value(setting, describe(range), example);
  return *number;
}

std::string read_text(const Setting& setting, std::string_view example) {
  if (scalar_of(setting).empty()) refuse_value(setting, "a text", example);
  return setting.value.text;
}

std::filesystem::path expand_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  if (home == nullptr || !(path == "~" || path.starts_with("~/"))) return path;
  return home + path.substr(1);
}

std::filesystem::path read_path(const Setting& setting, std::string_view example) {
  if (scalar_of(setting).empty()) refuse_value(setting, "a path", example);
  return expand_home(setting.value.text);
}

namespace {

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(' ');
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(' ') - first + 1);
}

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(trimmed(part));
  return parts;
}

}  // namespace

std::vector<std::string> read_texts(const Setting& setting, std::string_view example) {
  std::vector<std::string> texts;
  if (setting.value.is_text()) texts = split_at_commas(setting.value.text);
  if (setting.value.kind == DocumentValue::Kind::list)
    for (const DocumentValue& part : setting.value.items) texts.push_back(part.is_text() ? part.text : "");
  const bool gap = std::find(texts.begin(), texts.end(), "") != texts.end();
  if (texts.empty() || gap) refuse_value(setting, "a name or a list of names", example);
  return texts;
}

std::vector<std::filesystem::path> read_paths(const Setting& setting, std::string_view example) {
  if (setting.value.kind != DocumentValue::Kind::list) return {read_path(setting, example)};
  std::vector<std::filesystem::path> paths;
  for (const DocumentValue& part : setting.value.items) {
    if (!part.is_text() || part.text.empty())
      refuse_value(setting, part, setting.spelling, "a path or a list of paths", example);
    paths.push_back(expand_home(part.text));
  }
  if (paths.empty()) refuse_value(setting, "a path or a list of paths", example);
  return paths;
}

namespace {

struct Unit {
  std::string_view name;
  double size;
};

// The first unit whose name ends the text counts. None: no unit, or no number before it.
std::optional<double> with_unit(std::string_view text, std::span<const Unit> units) {
  const auto unit =
      std::find_if(units.begin(), units.end(), [&](const Unit& each) { return text.ends_with(each.name); });
  if (unit == units.end()) return std::nullopt;
  text.remove_suffix(unit->name.size());
  while (text.ends_with(' ')) text.remove_suffix(1);
  const auto number = parse_number<double>(text);
  if (!number || !std::isfinite(*number)) return std::nullopt;
  return *number * unit->size;
}

}  // namespace

Bytes read_size(const Setting& setting) {
  static constexpr std::array<Unit, 8> units = {{{"KiB", 0x1p10},
                                                 {"MiB", 0x1p20},
                                                 {"GiB", 0x1p30},
                                                 {"TiB", 0x1p40},
                                                 {"KB", 1e3},
                                                 {"MB", 1e6},
                                                 {"GB", 1e9},
                                                 {"TB", 1e12}}};
  const std::optional<double> bytes = with_unit(scalar_of(setting), units);
  if (!bytes || *bytes < 1 || *bytes > 0x1p60)
    refuse_value(setting, "a size above 0 with its unit: KiB, MiB, GiB, TiB, KB, MB, GB or TB", "22GiB");
  return Bytes{static_cast<int64_t>(std::floor(*bytes))};
}

std::chrono::seconds read_duration(const Setting& setting) {
  static constexpr std::array<Unit, 4> units = {{{"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}}};
  const std::optional<double> seconds = with_unit(scalar_of(setting), units);
  if (!seconds || *seconds < 0 || *seconds > 365 * 86400.0)
    refuse_value(setting, "a time of at most 365d with its unit: s, min, h or d", "24h");
  return std::chrono::seconds(std::llround(*seconds));
}

std::string joined(const std::vector<std::string_view>& names, std::string_view last) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? std::string() : std::string(i + 1 == names.size() ? last : ", ")) + std::string(names[i]);
  return text;
}

}  // namespace sluice::train
