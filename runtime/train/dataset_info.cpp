#include "runtime/train/dataset_info.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>

#include "runtime/core/json_nesting.h"
#include "runtime/core/result.h"
#include "runtime/train/config_keys.h"
#include "runtime/train/config_values.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kInfoFile = "dataset_info.json";

json read_info(const Setting& dataset, const fs::path& file) {
  std::ifstream stream(file);
  if (!stream)
    refuse(dataset, dataset.spelling + " is looked up in " + file.string() + ", which is not there",
           "name the folder that holds it: dataset_dir: FOLDER; or use `datasets:` with a path and a type for each");
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const json info = nests_too_deep(text) ? json() : json::parse(text, nullptr, false);
  if (!info.is_object()) throw SetupError(file.string() + " is no JSON object", "it holds a description for each name");
  return info;
}

// One description of the file.
class Description {
 public:
  Description(const fs::path& file, const std::string& name, const json& about)
      : file_(file), name_(name), about_(about) {
    if (!about.is_object()) fail("is no JSON object", "it has file_name, and what is unusual of its rows");
  }

  DatasetConfig read() const {
    refuse_what_is_not_done();
    DatasetConfig dataset;
    dataset.path = (file_.parent_path() / path()).string();
    if (!fs::exists(dataset.path))
      fail("names " + dataset.path + ", which is not there", "put the file there, or set file_name right");
    const std::string formatting = text(about_, "formatting", "alpaca");
    if (formatting != "alpaca" && formatting != "sharegpt")
      fail("formatting is '" + formatting + "'", "there are alpaca and sharegpt");
    dataset.type = formatting == "alpaca" ? DatasetType::instruction : DatasetType::chat_template;
    formatting == "alpaca" ? read_alpaca(dataset) : read_sharegpt(dataset);
    if (about_.contains("num_samples")) dataset.rows_max = samples();
    return dataset;
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& fix) const {
    throw SetupError(file_.string() + ": " + name_ + ": " + what, fix);
  }

  std::string text(const json& block, const char* key, const std::string& otherwise) const {
    if (!block.contains(key) || block.at(key).is_null()) return otherwise;
    if (!block.at(key).is_string()) fail(std::string(key) + " must be text", "write it in quotes");
    return block.at(key).get<std::string>();
  }
  json block(const char* key) const {
    if (!about_.contains(key)) return json::object();
    if (!about_.at(key).is_object()) fail(std::string(key) + " must be an object", "{\"name\": \"field\"}");
    return about_.at(key);
  }

  std::string path() const {
    const std::string name = text(about_, "file_name", "");
    if (!name.empty()) return name;
    fail("its data is not a local file (it has no file_name)",
         "fetch it first, for example: hf download --repo-type dataset NAME --local-dir FOLDER; then name it by "
         "file_name");
  }
  int64_t samples() const {
    if (!about_.at("num_samples").is_number_integer() || about_.at("num_samples") < 1)
      fail("num_samples must be a whole number from 1", "remove it to take all rows");
    return about_.at("num_samples").get<int64_t>();
  }

  void refuse_what_is_not_done() const {
    static constexpr std::array<std::string_view, 9> kKnown = {
        "file_name", "formatting", "columns", "tags", "num_samples", "ranking", "split", "subset", "folder"};
    for (const auto& [key, value] : about_.items()) {
      const bool unset = value.is_null() || value == false || value == "" || (key == "split" && value == "train");
      const bool source = key.ends_with("_hub_url") || key == "script_url" || key == "cloud_file_name";
      if (source && about_.contains("file_name")) continue;  // where it can be fetched from, too
      if (source) fail(key + ": nothing is fetched", "fetch it first, and name it by file_name");
      const bool known = std::find(kKnown.begin(), kKnown.end(), key) != kKnown.end();
      const bool done = key != "ranking" && key != "split" && key != "subset" && key != "folder";
      if (!known || (!done && !unset))
        fail("'" + key + "' is not supported", "supervised fine-tuning on text is what there is: remove it");
    }
  }

  void read_alpaca(DatasetConfig& dataset) const {
    static constexpr std::array<std::string_view, 5> kColumns = {"prompt", "query", "response", "system", "history"};
    const json columns = block("columns");
    for (const auto& [column, field] : columns.items()) {
      if (field.is_null()) continue;
      if (std::find(kColumns.begin(), kColumns.end(), column) == kColumns.end())
        fail("the column '" + column + "' is not supported", "prompt, query, response, system and history are");
      dataset.columns[column] = text(columns, column.c_str(), "");
    }
  }

  void read_sharegpt(DatasetConfig& dataset) const {
    const json columns = block("columns"), tags = block("tags");
    for (const auto& [column, field] : columns.items())
      if (column != "messages" && !field.is_null() && !(column == "system" && field == "system") &&
          !(column == "tools" && field == "tools"))
        fail("the column '" + column + "': '" + field.dump() + "' is not supported",
             "messages may have any name; system and tools are called so");
    dataset.field_messages = text(columns, "messages", "conversations");
    dataset.message_properties = {{"role", text(tags, "role_tag", "from")},
                                  {"content", text(tags, "content_tag", "value")}};
    dataset.roles = {{"user", {text(tags, "user_tag", "human")}},
                     {"assistant", {text(tags, "assistant_tag", "gpt")}},
                     {"system", {text(tags, "system_tag", "system")}},
                     {"tool", {text(tags, "observation_tag", "observation")}}};
  }

  const fs::path& file_;
  const std::string& name_;
  const json& about_;
};

}  // namespace

std::vector<DatasetConfig> datasets_of_info(const Setting& dataset, const fs::path& folder) {
  const fs::path file = folder / kInfoFile;
  const json info = read_info(dataset, file);
  std::vector<DatasetConfig> datasets;
  for (const std::string& name : read_texts(dataset, "identity,alpaca_en_demo")) {
    if (!info.contains(name)) {
      std::vector<std::string> known;
      for (const auto& entry : info.items()) known.push_back(entry.key());
      const std::vector<std::string_view> views(known.begin(), known.end());
      const std::string nearest = nearest_key(name, views);
      refuse(dataset, dataset.spelling + ": " + file.string() + " describes no '" + name + "'",
             nearest.empty() ? "add a description of it there" : nearest);
    }
    datasets.push_back(Description(file, name, info.at(name)).read());
  }
  return datasets;
}

}  // namespace sluice::train
