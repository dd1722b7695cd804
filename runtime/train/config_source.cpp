#include "runtime/train/config_source.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "runtime/core/result.h"
#include "runtime/train/config_keys.h"
#include "runtime/train/config_values.h"
#include "runtime/train/foreign_keys.h"

namespace sluice::train {

std::string Setting::place_of(const YAML::Mark& mark) const {
  if (!has_lines || mark.is_null()) return origin;
  return origin + ":" + std::to_string(mark.line + 1) + ":" + std::to_string(mark.column + 1);
}

const Setting* Settings::find(std::string_view key) const {
  const auto found = values.find(key);
  return found == values.end() ? nullptr : &found->second;
}

namespace {

constexpr std::string_view kOffload = "offload.";

std::string read_text_file(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::ostringstream text;
  if (std::filesystem::is_directory(file) || !stream || !(text << stream.rdbuf()))
    throw SetupError(file.string() + ": cannot be read", "give the path of a job's YAML file with at least one key");
  return std::move(text).str();
}

YAML::Node parse(const std::string& text, const std::string& origin) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) throw SetupError(origin + ": holds more than one YAML document", "keep one");
    return documents.empty() ? YAML::Node() : documents.front();
  } catch (const YAML::Exception& error) {
    const bool known = !error.mark.is_null();
    throw SetupError(origin + (known ? ":" + std::to_string(error.mark.line + 1) + ":" +
                                           std::to_string(error.mark.column + 1)
                                     : "") +
                         ": not YAML: " + error.msg,
                     "check indentation, colons and quotes at this place");
  }
}

// null, false, 0, "", [], {}: a template's way of leaving something out.
bool is_unset(const YAML::Node& value) {
  if (value.IsNull()) return true;
  if (!value.IsScalar()) return value.size() == 0;
  const std::string& text = value.Scalar();
  bool truth = true;
  return text.empty() || text == "0" || text == "0.0" || (YAML::convert<bool>::decode(value, truth) && !truth);
}

class Collector {
 public:
  // `replaces`: settings of the command line take the place of the file's.
  Collector(Settings& settings, std::string origin, bool has_lines)
      : settings_(settings), origin_(std::move(origin)), has_lines_(has_lines) {}

  void add_map(const YAML::Node& map, std::string_view prefix) {
    for (const auto& entry : map) {
      if (!entry.first.IsScalar())
        throw SetupError(place(entry.first.Mark()) + ": a key must be a word", "write lines of the form `key: value`");
      add(entry.first.Scalar(), entry.second, entry.first.Mark(), prefix);
    }
  }

  // Takes one value in; `prefix` is "" or "offload.".
  void add(const std::string& name, const YAML::Node& value, const YAML::Mark& mark, std::string_view prefix) {
    const std::string spelling = std::string(prefix) + name;
    refuse_twice(spelling, spelling, mark);
    if (spelling == "offload") return add_offload(value, mark);
    if (const Key* key = find_key(spelling)) return add_known(*key, spelling, value, mark);
    const ForeignKey* foreign = prefix.empty() ? find_foreign_key(name) : nullptr;
    if (foreign == nullptr)
      throw SetupError(place(mark) + ": unknown key '" + spelling + "'", advice_for_unknown_key(name, prefix));
    add_foreign(*foreign, spelling, value, mark);
  }

 private:
  std::string place(const YAML::Mark& mark) const {
    return Setting{.key = {}, .spelling = {}, .origin = origin_, .has_lines = has_lines_, .value = {}, .key_mark = {}}
        .place_of(mark);
  }

  void add_offload(const YAML::Node& value, const YAML::Mark& mark) {
    if (value.IsNull()) return;
    if (!value.IsMap())
      throw SetupError(place(mark) + ": offload must be a block of keys, not " + shown(value),
                       "for example: offload: {params: disk, max_cpu: 4GiB}");
    add_map(value, kOffload);
  }

  void add_known(const Key& key, const std::string& spelling, const YAML::Node& value, const YAML::Mark& mark) {
    const std::string name(key.name);
    if (value.IsNull()) {
      // On the command line this takes the file's value back.
      if (!has_lines_) settings_.values.erase(name);
      return;
    }
    refuse_twice(name, spelling, mark);
    settings_.values[name] = {name, spelling, origin_, has_lines_, value, mark};
  }

  void add_foreign(const ForeignKey& key, const std::string& spelling, const YAML::Node& value, const YAML::Mark& mark) {
    if (is_unset(value)) return;
    if (key.effect == ForeignKey::Effect::none) {
      settings_.notes.push_back(place(mark) + ": " + spelling + " changes nothing here: " + std::string(key.advice));
      return;
    }
    const bool harmless = value.IsScalar() && std::find(key.harmless_values.begin(), key.harmless_values.end(),
                                                        value.Scalar()) != key.harmless_values.end();
    const bool harmless_list = value.IsSequence() && value.size() == 1 && value[0].IsScalar() &&
                               std::find(key.harmless_values.begin(), key.harmless_values.end(),
                                         value[0].Scalar()) != key.harmless_values.end();
    if (harmless || harmless_list) return;
    throw SetupError(place(mark) + ": " + spelling + ": " + shown(value) + " is not supported",
                     std::string(key.advice));
  }

  // A key twice, or one key under two names.
  void refuse_twice(const std::string& name, const std::string& spelling, const YAML::Mark& mark) {
    const auto [seen, first] = seen_.try_emplace(name, spelling, mark);
    if (first || (seen->second.first == spelling && seen->second.second.pos == mark.pos)) return;
    const auto& [other, other_mark] = seen->second;
    const std::string where = has_lines_ ? " in line " + std::to_string(other_mark.line + 1) : "";
    if (other == spelling)
      throw SetupError(place(mark) + ": '" + spelling + "' is given twice, first" + where, "keep one");
    throw SetupError(place(mark) + ": '" + spelling + "' and '" + other + "'" + where + " are one key under two names",
                     "keep one");
  }

  Settings& settings_;
  std::string origin_;
  bool has_lines_;
  std::map<std::string, std::pair<std::string, YAML::Mark>> seen_;
};

void add_override(Collector& collector, const std::string& text, int number) {
  const size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos)
    throw SetupError("command line: '" + text + "' is not of the form key=value", "for example: learning_rate=2e-5");
  const std::string name = text.substr(0, equals);
  const YAML::Node value = parse(text.substr(equals + 1), "command line: " + name);
  // Positions tell arguments apart, as they do keys in a file.
  YAML::Mark mark;
  mark.pos = mark.line = mark.column = number;
  const bool nested = name.starts_with(kOffload);
  collector.add(nested ? name.substr(kOffload.size()) : name, value, mark, nested ? kOffload : "");
}

}  // namespace

Settings read_settings(const std::filesystem::path& yaml, const std::vector<std::string>& overrides) {
  Settings settings;
  const YAML::Node root = parse(read_text_file(yaml), yaml.string());
  if (!root.IsMap() || root.size() == 0)
    throw SetupError(yaml.string() + ": holds no keys", "write lines of the form `key: value`");
  Collector(settings, yaml.string(), true).add_map(root, "");
  Collector command_line(settings, "command line", false);
  for (size_t i = 0; i < overrides.size(); ++i) add_override(command_line, overrides[i], static_cast<int>(i));
  return settings;
}

}  // namespace sluice::train
