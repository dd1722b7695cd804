#include "runtime/train/config_datasets.h"

#include <algorithm>
#include <map>
#include <set>

#include "runtime/core/result.h"
#include "runtime/train/config_keys.h"
#include "runtime/train/config_values.h"
#include "runtime/train/dataset_info.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 8> kDatasetKeys = {"path",
                                                          "type",
                                                          "field",
                                                          "field_messages",
                                                          "message_property_mappings",
                                                          "roles",
                                                          "message_field_role",
                                                          "message_field_content"};

Setting dataset_field(const Setting& datasets, const DocumentField& part) {
  return {part.key, "datasets." + part.key, datasets.origin, part.position, part.value};
}

// Axolotl's, at the value that means what we do anyway.
void check_other_key(const std::string& key, const Setting& field, Problems& problems) {
  static const std::map<std::string, std::set<std::string>, std::less<>> harmless = {
      {"split", {"train"}},
      {"field_system", {"system"}},
      {"field_tools", {"tools"}},
      {"roles_to_train", {"assistant"}},
      {"train_on_eos", {"turn"}},
      {"chat_template", {"tokenizer_default"}},
      {"trust_remote_code", {"false"}},
      {"drop_system_message", {"false"}},
  };
  const auto found = harmless.find(key);
  const DocumentValue& value = field.value;
  if (found == harmless.end()) {
    const std::string nearest = nearest_key(key, kDatasetKeys);
    problems.add(field, "unknown key '" + field.spelling + "'",
                 nearest.empty()
                     ? "remove it; a dataset has path, type, field, field_messages, message_property_mappings and roles"
                     : nearest);
    return;
  }
  const DocumentValue& single = value.items.size() == 1 ? value.items.front() : value;
  if (!single.is_text() || !found->second.contains(single.text))
    problems.add(field, field.spelling + ": " + shown(value) + " is not supported", "remove it");
}

// `message_field_role: x` is Axolotl's older spelling of `message_property_mappings: {role: x}`.
void add_mapping(const Setting& field, const std::string& property, const std::string& name, DatasetConfig& dataset) {
  if (!dataset.message_properties.emplace(property, name).second)
    refuse(field, field.spelling + " and datasets.message_field_" + property + " exclude one another",
           "keep message_property_mappings");
}

void read_mappings(const Setting& field, DatasetConfig& dataset) {
  if (field.value.kind != DocumentValue::Kind::block)
    refuse_value(field, "a block of properties and fields", "{role: from, content: value}");
  for (const DocumentField& part : field.value.fields) {
    if (part.value.is_null()) continue;
    if (!part.value.is_text() || part.value.text.empty())
      refuse_value(field, part.value, field.spelling + "." + part.key, "the name of a field", "from");
    add_mapping({part.key, field.spelling + "." + part.key, field.origin, part.position, part.value}, part.key,
                part.value.text, dataset);
  }
}

void read_roles(const Setting& field, DatasetConfig& dataset) {
  if (field.value.kind != DocumentValue::Kind::block)
    refuse_value(field, "a block of roles and the names that data has for them",
                 "{assistant: [gpt, model], user: [human]}");
  std::set<std::string> seen;
  for (const DocumentField& part : field.value.fields) {
    if (part.value.is_null()) continue;
    const Setting role{part.key, field.spelling + "." + part.key, field.origin, part.position, part.value};
    dataset.roles[part.key] = read_texts(role, "[gpt, model]");
    for (const std::string& name : dataset.roles[part.key])
      if (!seen.insert(name).second)
        refuse(role, field.spelling + ": '" + name + "' is named twice", "keep it under one role");
  }
}

// How the rows of one type of dataset are read.
void read_row_key(const std::string& key, const Setting& field, DatasetConfig& dataset) {
  if (std::find(kDatasetKeys.begin() + 2, kDatasetKeys.end(), key) == kDatasetKeys.end()) return;
  const bool is_text = key == "field";
  if (dataset.type != (is_text ? DatasetType::completion : DatasetType::chat_template)) {
    if (is_text && field.value.text == "text") return;  // the default
    const std::string type = is_text ? "completion" : "chat_template";
    refuse(field, field.spelling + " goes with type: " + type + " only", "remove it, or set type: " + type);
  }
  if (key == "field") dataset.field = read_text(field, "content");
  if (key == "field_messages") dataset.field_messages = read_text(field, "conversations");
  if (key == "message_property_mappings") read_mappings(field, dataset);
  if (key == "roles") read_roles(field, dataset);
  for (const char* property : {"role", "content"})
    if (key == std::string("message_field_") + property)
      add_mapping(field, property, read_text(field, property), dataset);
}

}  // namespace

void check_dataset_keys(Settings& settings) {
  const Setting* datasets = settings.find("datasets");
  if (datasets == nullptr) return;
  for (const DocumentValue& entry : datasets->value.items) {
    std::set<std::string> seen;
    for (const DocumentField& part : entry.fields) {
      const Setting field = dataset_field(*datasets, part);
      if (part.value.is_null()) continue;
      if (!seen.insert(part.key).second)
        settings.problems.add(field, "'" + field.spelling + "' is given twice", "keep one");
      else if (std::find(kDatasetKeys.begin(), kDatasetKeys.end(), part.key) == kDatasetKeys.end())
        check_other_key(part.key, field, settings.problems);
    }
  }
}

namespace {

DatasetConfig read_dataset(const Setting& datasets, const DocumentValue& entry) {
  static constexpr std::array<Choice<DatasetType>, 3> types = {{{"alpaca", DatasetType::alpaca},
                                                                {"chat_template", DatasetType::chat_template},
                                                                {"completion", DatasetType::completion}}};
  if (entry.kind != DocumentValue::Kind::block)
    refuse_value(datasets, entry, "a dataset", "a block with path and type", "{path: data.jsonl, type: alpaca}");
  std::map<std::string, Setting> fields;
  for (const DocumentField& part : entry.fields)
    if (!part.value.is_null()) fields.emplace(part.key, dataset_field(datasets, part));
  for (const char* needed : {"path", "type"})
    if (!fields.contains(needed))
      throw SetupError(datasets.place_of(entry.position) + ": a dataset lacks " + needed,
                       "for example: {path: data.jsonl, type: alpaca}");
  DatasetConfig dataset;
  const Setting& path = fields.at("path");
  dataset.path = read_path(path, "data.jsonl").string();
  if (!fs::exists(dataset.path))
    throw SetupError(path.place_of(path.value.position) + ": no dataset '" + dataset.path + "'",
                     "name a local file or a folder of files: JSONL, JSON, Parquet or text");
  dataset.type = read_choice(fields.at("type"), types);
  for (const auto& [key, field] : fields) read_row_key(key, field, dataset);
  return dataset;
}

}  // namespace

std::vector<DatasetConfig> read_datasets(const Settings& settings, const std::filesystem::path& file,
                                         std::vector<std::string>& notes) {
  std::vector<DatasetConfig> all;
  const Setting* folder = settings.find("dataset_dir");
  if (const Setting* named = settings.find("dataset")) {
    if (const Setting* datasets = settings.find("datasets")) refuse_both_of(*datasets, *named, "keep `datasets`");
    all = datasets_of_info(*named, folder ? read_path(*folder, "data") : std::filesystem::path("data"));
  } else {
    constexpr const char* kExample = "[{path: data.jsonl, type: alpaca}]";
    const Setting& datasets = required(settings, file, "datasets", kExample);
    if (datasets.value.items.empty()) refuse_value(datasets, "a list of at least one dataset", kExample);
    for (const DocumentValue& entry : datasets.value.items) all.push_back(read_dataset(datasets, entry));
    if (folder)
      notes.push_back(folder->place() + ": dataset_dir changes nothing here: `datasets` are named by their paths");
  }
  const Setting* most = settings.find("max_samples");  // of each dataset
  if (most == nullptr) return all;
  const int64_t rows = read_integer(*most, {.min = 1}, "1000");
  for (DatasetConfig& dataset : all) dataset.rows_max = dataset.rows_max > 0 ? std::min(dataset.rows_max, rows) : rows;
  return all;
}

}  // namespace sluice::train
