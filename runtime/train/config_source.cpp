#include "runtime/train/config_source.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "runtime/core/result.h"
#include "runtime/train/config_keys.h"
#include "runtime/train/foreign_keys.h"

namespace sluice::train {

std::string Setting::place_of(Position part) const {
  // The command line has no lines worth counting.
  if (position.line == 0 || part.line == 0) return origin;
  return origin + ":" + std::to_string(part.line) + ":" + std::to_string(part.column);
}

const Setting* Settings::find(std::string_view key) const {
  const auto found = values.find(key);
  return found == values.end() ? nullptr : &found->second;
}

void Problems::add(const Setting& setting, const std::string& what, std::string fix) {
  add(setting.position.line, setting.place() + ": " + what, std::move(fix));
}

void Problems::add(int line, std::string what, std::string fix) {
  problems_.push_back({line, std::move(what), std::move(fix)});
}

void Problems::throw_if_any() {
  if (problems_.empty()) return;
  std::stable_sort(problems_.begin(), problems_.end(),
                   [](const Problem& a, const Problem& b) { return a.line != 0 && (b.line == 0 || a.line < b.line); });
  std::string text;
  for (const Problem& problem : problems_) {
    text += problem.what;
    if (&problem != &problems_.back()) text += "\n  fix: " + problem.fix + "\n";
  }
  throw SetupError(text, problems_.back().fix);
}

namespace {

constexpr std::string_view kOffload = "offload.";

class Collector {
 public:
  // `settings` may hold others already: those of the file, when the command line's come.
  Collector(Settings& settings, std::string origin) : settings_(settings), origin_(std::move(origin)) {}

  void add_block(const DocumentValue& block, std::string_view prefix) {
    for (const DocumentField& field : block.fields) add(field, prefix);
  }

  // `prefix`: "" or "offload.".
  void add(const DocumentField& field, std::string_view prefix) {
    const Setting setting{.key = {},
                          .spelling = std::string(prefix) + field.key,
                          .origin = origin_,
                          .position = field.position,
                          .value = field.value};
    const Key* key = find_key(setting.spelling);
    if (is_there_already(key == nullptr ? setting.spelling : std::string(key->name), setting)) return;
    if (setting.spelling == "offload") return add_offload(setting);
    if (key != nullptr) return add_known(*key, setting);
    const ForeignKey* foreign = prefix.empty() ? find_foreign_key(field.key) : nullptr;
    if (foreign != nullptr) return add_foreign(*foreign, setting);
    settings_.problems.add(setting, "unknown key '" + setting.spelling + "'",
                           advice_for_unknown_key(field.key, prefix));
  }

 private:
  void add_offload(const Setting& setting) {
    if (setting.value.is_null()) return;
    if (setting.value.kind != DocumentValue::Kind::block)
      return settings_.problems.add(setting, "offload must be a block of keys, not " + shown(setting.value),
                                    "for example: offload: {params: disk, max_cpu: 4GiB}");
    add_block(setting.value, kOffload);
  }

  void add_known(const Key& key, Setting setting) {
    setting.key = key.name;
    // On the command line, nothing takes the file's value back.
    settings_.values.erase(setting.key);
    if (!setting.value.is_null()) settings_.values.emplace(setting.key, std::move(setting));
  }

  void add_foreign(const ForeignKey& key, Setting setting) {
    settings_.values.erase(setting.spelling);
    if (is_unset(setting.value)) return;
    if (key.effect == ForeignKey::Effect::examined) {
      setting.key = setting.spelling;
      settings_.values.emplace(setting.key, std::move(setting));
      return;
    }
    if (key.effect == ForeignKey::Effect::none) {
      settings_.notes.push_back(setting.place() + ": " + setting.spelling +
                                " changes nothing here: " + std::string(key.advice));
      return;
    }
    const DocumentValue& value = setting.value;
    const DocumentValue& single = value.items.size() == 1 ? value.items.front() : value;
    const auto& harmless = key.harmless_values;
    if (single.is_text() && std::find(harmless.begin(), harmless.end(), single.text) != harmless.end()) return;
    settings_.problems.add(setting, setting.spelling + ": " + shown(value) + " is not supported",
                           std::string(key.advice));
  }

  // A key twice, or one key under two names.
  bool is_there_already(const std::string& name, const Setting& setting) {
    const auto [entry, first] = seen_.try_emplace(name, setting);
    if (first) return false;
    const Setting& other = entry->second;
    const bool numbered = other.position.line > 0;
    const std::string where = numbered ? " in line " + std::to_string(other.position.line) : "";
    const bool same = other.spelling == setting.spelling;
    settings_.problems.add(setting,
                           "'" + setting.spelling + "' " +
                               (same ? "is given twice" + (numbered ? ", first" + where : "")
                                     : "and '" + other.spelling + "'" + where + " are one key under two names"),
                           "keep one");
    return true;
  }

  Settings& settings_;
  std::string origin_;
  std::map<std::string, Setting> seen_;
};

void add_override(Collector& collector, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos)
    throw SetupError("command line: '" + text + "' is not of the form key=value", "for example: learning_rate=2e-5");
  std::string name = text.substr(0, equals);
  DocumentField field{name, {}, parse_document(text.substr(equals + 1), "command line: " + name)};
  const bool nested = name.starts_with(kOffload);
  if (nested) field.key.erase(0, kOffload.size());
  collector.add(field, nested ? kOffload : "");
}

}  // namespace

std::string read_job_file(const std::filesystem::path& file) {
  std::ifstream stream(file);
  if (!stream || std::filesystem::is_directory(file))
    throw SetupError(file.string() + ": cannot be read", "give the path of a job's YAML file");
  return {std::istreambuf_iterator<char>(stream), {}};
}

Settings read_settings(const std::string& yaml, const std::string& origin, const std::vector<std::string>& overrides) {
  Settings settings;
  const DocumentValue root = parse_document(yaml, origin);
  if (root.fields.empty()) throw SetupError(origin + ": holds no keys", "write lines of the form `key: value`");
  Collector(settings, origin).add_block(root, "");
  Collector command_line(settings, "command line");
  for (const std::string& text : overrides) add_override(command_line, text);
  return settings;
}

}  // namespace sluice::train
