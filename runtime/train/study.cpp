#include "runtime/train/study.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "runtime/core/result.h"
#include "runtime/train/config.h"
#include "runtime/train/config_document.h"
#include "runtime/train/config_keys.h"
#include "runtime/train/config_source.h"
#include "runtime/train/config_values.h"
#include "runtime/train/foreign_keys.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr size_t kCellsMax = 10000;
constexpr std::array<std::string_view, 7> kStudyKeys = {"title", "base",     "output_dir", "steps",
                                                        "grid",  "settings", "published"};
constexpr std::array<std::string_view, 5> kPublishedKeys = {"what", "where", "tokens_per_second", "words", "source"};

DocumentValue read_document(const fs::path& file) {
  std::ifstream stream(file);
  if (!stream || fs::is_directory(file))
    throw SetupError(file.string() + ": cannot be read", "give the path of a job's or a study's YAML file");
  return parse_document({std::istreambuf_iterator<char>(stream), {}}, file.string());
}

// What a study's file says goes on in command lines, YAML and JSON.
void refuse_other_encodings(const DocumentValue& value, const fs::path& file) {
  const auto check = [&](const std::string& text, Position position) {
    try {
      nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw SetupError(file.string() + ":" + std::to_string(position.line) + ":" + std::to_string(position.column) +
                           ": this is not UTF-8",
                       "write the file in UTF-8");
    }
  };
  check(value.text, value.position);
  for (const DocumentValue& item : value.items) refuse_other_encodings(item, file);
  for (const DocumentField& field : value.fields) {
    check(field.key, field.position);
    refuse_other_encodings(field.value, file);
  }
}

// The value in YAML's flow style. Texts are quoted: what YAML makes of them is the job's reader's to decide, again.
std::string yaml_of(const DocumentValue& value) {
  std::string text;
  switch (value.kind) {
    case DocumentValue::Kind::null:
      return "";
    case DocumentValue::Kind::text:
      return nlohmann::json(value.text).dump();
    case DocumentValue::Kind::list:
      for (const DocumentValue& item : value.items) text += (text.empty() ? "" : ", ") + yaml_of(item);
      return "[" + text + "]";
    case DocumentValue::Kind::block:
      for (const DocumentField& field : value.fields)
        text += (text.empty() ? "" : ", ") + nlohmann::json(field.key).dump() + ": " + yaml_of(field.value);
      return "{" + text + "}";
  }
  return text;
}

// As the value is said in tables.
std::string label_of(const DocumentValue& value) {
  return value.kind == DocumentValue::Kind::text ? value.text : value.is_null() ? "none" : yaml_of(value);
}

using CellSettings = std::map<std::string, std::string>;

struct AxisValue {
  std::string label;
  Position position;
  CellSettings settings;
};
struct Axis {
  std::string name;
  std::vector<AxisValue> values;
};

class StudyReader {
 public:
  StudyReader(const fs::path& file, const std::vector<std::string>& overrides)
      : root_(read_document(file)), overrides_(overrides) {
    study_.file = file;
    refuse_other_encodings(root_, file);
  }

  Study read() {
    for (const DocumentField& field : root_.fields)
      check_name(field, kStudyKeys, "key of a study: title, base, output_dir, steps, grid, settings, published");
    study_.base = beside_study(text_of(require("base", "job.yaml")));
    study_.output_dir = text_of(require("output_dir", "out/study"));
    study_.title = study_.file.stem();
    if (const DocumentField* title = find("title")) study_.title = text_of(*title);
    if (const DocumentField* steps = find("steps")) study_.steps = read_integer(as_setting(*steps), {.min = 1}, "5");
    read_settings_of_all();
    read_grid(require("grid", "{micro_batch_size: [1, 2, 4]}"));
    make_cells();
    check_cells();
    if (const DocumentField* published = find("published")) read_published(*published);
    return std::move(study_);
  }

 private:
  std::string place(Position position) const {
    return study_.file.string() + ":" + std::to_string(position.line) + ":" + std::to_string(position.column);
  }
  [[noreturn]] void refuse(Position position, const std::string& what, const std::string& fix) const {
    throw SetupError(place(position) + ": " + what, fix);
  }
  const DocumentField* find(std::string_view key) const {
    const auto found = std::find_if(root_.fields.begin(), root_.fields.end(),
                                    [key](const DocumentField& field) { return field.key == key; });
    return found == root_.fields.end() ? nullptr : &*found;
  }
  const DocumentField& require(std::string_view key, const std::string& example) const {
    if (const DocumentField* field = find(key)) return *field;
    throw SetupError(study_.file.string() + ": " + std::string(key) + " is missing",
                     "add, for example: " + std::string(key) + ": " + example);
  }
  std::string text_of(const DocumentField& field) const {
    if (!field.value.is_text()) refuse(field.position, field.key + " must be a text, not " + shown(field.value), "");
    return field.value.text;
  }
  Setting as_setting(const DocumentField& field) const {
    return {field.key, field.key, study_.file.string(), field.position, field.value};
  }
  fs::path beside_study(const fs::path& path) const {
    return path.is_absolute() ? path : study_.file.parent_path() / path;
  }

  template <size_t count>
  void check_name(const DocumentField& field, const std::array<std::string_view, count>& names,
                  const std::string& known) const {
    if (std::find(names.begin(), names.end(), field.key) != names.end()) return;
    const std::string nearest = nearest_key(field.key, names);
    refuse(field.position, "unknown key '" + field.key + "'", nearest.empty() ? "it must be a " + known : nearest);
  }

  // One setting of a job, or a block of them under `offload`.
  void add_setting(const DocumentField& field, const std::string& prefix, CellSettings& settings) const {
    const std::string spelling = prefix + field.key;
    if (spelling == "offload") return add_offload(field, settings);
    const Key* key = find_key(spelling);
    const bool foreign = key == nullptr && prefix.empty() && find_foreign_key(field.key) != nullptr;
    if (key == nullptr && !foreign)
      refuse(field.position, "unknown key '" + spelling + "'", advice_for_unknown_key(field.key, prefix));
    settings[key == nullptr ? spelling : std::string(key->name)] = yaml_of(field.value);
  }

  void add_offload(const DocumentField& offload, CellSettings& settings) const {
    if (offload.value.kind != DocumentValue::Kind::block && !offload.value.is_null())
      refuse(offload.position, "offload must be a block of keys, not " + shown(offload.value),
             "for example: offload: {params: disk}, or in a grid: offload.params: [host, disk]");
    for (const DocumentField& inner : offload.value.fields) add_setting(inner, "offload.", settings);
  }

  void read_settings_of_all() {
    if (const DocumentField* all = find("settings")) {
      if (all->value.kind != DocumentValue::Kind::block)
        refuse(all->position, "settings must be a block of a job's keys, not " + shown(all->value), "");
      for (const DocumentField& field : all->value.fields) add_setting(field, "", of_all_);
    }
    for (const std::string& text : overrides_) {
      const size_t equals = text.find('=');
      if (equals == std::string::npos)
        throw SetupError("command line: '" + text + "' is not of the form key=value", "for example: bf16=true");
      const std::string value = text.substr(equals + 1);
      const Key* key = find_key(text.substr(0, equals));
      // What is no key is said by the base job's reader.
      const std::string name = key == nullptr ? text.substr(0, equals) : std::string(key->name);
      // Of a study's command it is where the study's results go.
      if (name == "output_dir")
        study_.output_dir = value;
      else
        of_all_[name] = value;
    }
  }

  void read_grid(const DocumentField& grid) {
    if (grid.value.kind != DocumentValue::Kind::block || grid.value.fields.empty())
      refuse(grid.position, "grid must be a block of keys with lists of values, not " + shown(grid.value),
             "for example: grid: {micro_batch_size: [1, 2, 4]}");
    for (const DocumentField& field : grid.value.fields) {
      const bool twice = std::any_of(axes_.begin(), axes_.end(), [&](const Axis& a) { return a.name == field.key; });
      if (twice) refuse(field.position, "'" + field.key + "' is given twice", "keep one");
      axes_.push_back(field.value.kind == DocumentValue::Kind::block ? named_axis(field) : key_axis(field));
    }
  }

  // KEY: [value, value]
  Axis key_axis(const DocumentField& field) const {
    Axis axis{field.key, {}};
    CellSettings known;  // the key is looked at before its values
    const bool nested = field.key.starts_with("offload.");
    const auto setting = [&](const DocumentValue& value) {
      CellSettings settings;
      add_setting({nested ? field.key.substr(8) : field.key, field.position, value}, nested ? "offload." : "",
                  settings);
      return settings;
    };
    known = setting(field.value);
    if (field.value.kind != DocumentValue::Kind::list || field.value.items.empty())
      refuse(field.position, field.key + " must be a list of values, not " + shown(field.value),
             "for example: " + field.key + ": [1, 2]; settings that do not vary belong under `settings:`");
    for (const DocumentValue& value : field.value.items)
      axis.values.push_back({label_of(value), value.position, setting(value)});
    return axis;
  }

  // NAME: {label: {key: value, ...}, ...}
  Axis named_axis(const DocumentField& field) const {
    Axis axis{field.key, {}};
    if (field.value.fields.empty())
      refuse(field.position, field.key + " has no value: there is no cell",
             "give it at least one, for example: " + field.key + ": {brain: {bf16: true}}");
    for (const DocumentField& named : field.value.fields) {
      if (named.value.kind != DocumentValue::Kind::block)
        refuse(named.position, named.key + " must be a block of a job's keys, not " + shown(named.value),
               "for example: " + field.key + ": {" + named.key + ": {bf16: true}}");
      AxisValue value{named.key, named.position, {}};
      for (const DocumentField& inner : named.value.fields) add_setting(inner, "", value.settings);
      axis.values.push_back(std::move(value));
    }
    return axis;
  }

  void make_cells() {
    size_t count = 1;
    for (const Axis& axis : axes_)
      if ((count *= axis.values.size()) > kCellsMax)
        throw SetupError(study_.file.string() + ": the grid has more than " + std::to_string(kCellsMax) + " cells",
                         "give fewer values");
    study_.cells = {StudyCell{{}, of_all_}};
    for (const Axis& axis : axes_) {
      std::vector<StudyCell> longer;
      for (const StudyCell& cell : study_.cells)
        for (const AxisValue& value : axis.values) longer.push_back(extended(cell, axis, value));
      study_.cells = std::move(longer);
    }
  }

  StudyCell extended(StudyCell cell, const Axis& axis, const AxisValue& value) const {
    cell.labels.emplace_back(axis.name, value.label);
    for (const auto& [key, text] : value.settings) {
      for (const Axis& other : axes_) {
        if (other.name == axis.name) break;
        for (const AxisValue& each : other.values)
          if (each.settings.contains(key))
            refuse(value.position, key + " is varied by " + other.name + " too", "keep one");
      }
      cell.settings[key] = text;
    }
    return cell;
  }

  void check_cells() const {
    for (const StudyCell& cell : study_.cells)
      if (const std::optional<Error> error = load_error(cell.overrides())) refuse_cell(cell, *error);
  }

  [[noreturn]] void refuse_cell(const StudyCell& cell, Error error) const {
    constexpr std::string_view kOrigin = "command line: ";
    const bool of_no_cell = is_error_of({}, error);
    if (of_no_cell || is_error_of(overrides_, error)) throw SetupError(std::move(error));
    const std::string place = place_of(error, cell);
    // Settings of a cell reach the job's reader as those of a command line do.
    if (error.message.starts_with(kOrigin)) error.message.erase(0, kOrigin.size());
    error.message = place + ": " + error.message;
    throw SetupError(std::move(error));
  }

  // What is wrong with one value alone is said with its line; what is wrong with values together, with the cell's name.
  std::string place_of(const Error& error, const StudyCell& cell) const {
    if (is_error_of(StudyCell{{}, of_all_}.overrides(), error)) return study_.file.string() + ", settings";
    for (size_t axis = 0; axis < axes_.size(); ++axis) {
      for (const AxisValue& value : axes_[axis].values) {
        if (value.label != cell.labels[axis].second) continue;
        StudyCell alone{{}, of_all_};
        for (const auto& [key, text] : value.settings) alone.settings[key] = text;
        if (is_error_of(alone.overrides(), error)) return place(value.position);
      }
    }
    return study_.file.string() + ", " + cell.name();
  }

  bool is_error_of(const std::vector<std::string>& overrides, const Error& error) const {
    const std::optional<Error> same = load_error(overrides);
    return same && same->message == error.message;
  }

  std::optional<Error> load_error(const std::vector<std::string>& overrides) const {
    try {
      load_config(study_.base, overrides);
      return std::nullopt;
    } catch (const SetupError& refused) {
      return refused.error();
    }
  }

  void read_published(const DocumentField& published) {
    if (published.value.kind != DocumentValue::Kind::list)
      refuse(published.position, "published must be a list, not " + shown(published.value),
             "for example: - {what: ..., where: {...}, tokens_per_second: 628, source: ...}");
    for (const DocumentValue& item : published.value.items) {
      PublishedFigure figure;
      for (const DocumentField& field : item.fields) {
        check_name(field, kPublishedKeys, "key of a published figure: what, where, tokens_per_second, words, source");
        if (field.key == "what") figure.what = text_of(field);
        if (field.key == "words") figure.words = text_of(field);
        if (field.key == "source") figure.source = text_of(field);
        if (field.key == "tokens_per_second")
          figure.tokens_per_second = read_number(as_setting(field), {.min = 0, .max = 1e9}, "628");
        if (field.key == "where") read_where(field, figure);
      }
      if (figure.what.empty() || figure.source.empty())
        refuse(item.position, "a published figure needs `what` and `source`", "say what it is and who published it");
      study_.published.push_back(std::move(figure));
    }
  }

  void read_where(const DocumentField& where, PublishedFigure& figure) const {
    if (where.value.kind != DocumentValue::Kind::block && !where.value.is_null())
      refuse(where.position, "where must be a block of the grid's keys, not " + shown(where.value),
             "for example: where: {" + axes_[0].name + ": " + axes_[0].values[0].label + "}");
    for (const DocumentField& field : where.value.fields) {
      const auto axis = std::find_if(axes_.begin(), axes_.end(), [&](const Axis& a) { return a.name == field.key; });
      std::vector<std::string_view> names;
      for (const Axis& each : axes_) names.push_back(each.name);
      if (axis == axes_.end())
        refuse(field.position, "the grid has no '" + field.key + "'", nearest_key(field.key, names));
      names.clear();
      for (const AxisValue& value : axis->values) names.push_back(value.label);
      const std::string label = label_of(field.value);
      if (std::find(names.begin(), names.end(), label) == names.end())
        refuse(field.position, field.key + " has no '" + label + "' in the grid", nearest_key(label, names));
      figure.where[field.key] = label;
    }
  }

  DocumentValue root_;
  const std::vector<std::string>& overrides_;
  Study study_;
  CellSettings of_all_;
  std::vector<Axis> axes_;
};

}  // namespace

std::string StudyCell::name() const {
  std::string text;
  for (const auto& [axis, label] : labels) text += (text.empty() ? "" : ", ") + axis + "=" + label;
  return text;
}

std::vector<std::string> StudyCell::overrides() const {
  std::vector<std::string> all;
  for (const auto& [key, value] : settings) all.push_back(key + "=" + value);
  return all;
}

bool is_study(const fs::path& file) {
  const DocumentValue root = read_document(file);
  return std::any_of(root.fields.begin(), root.fields.end(),
                     [](const DocumentField& field) { return field.key == "grid"; });
}

Study read_study(const fs::path& file, const std::vector<std::string>& overrides) {
  return StudyReader(file, overrides).read();
}

}  // namespace sluice::train
