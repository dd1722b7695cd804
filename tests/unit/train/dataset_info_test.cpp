// LLaMA-Factory's names of datasets mean what dataset_info.json says; what it says and is not done is refused by name.
#include <gtest/gtest.h>

#include "runtime/core/result.h"
#include "runtime/train/config.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

class DatasetInfo : public JobFolder {
 protected:
  static constexpr const char* kJob =
      "model_name_or_path: model\nlearning_rate: 1e-5\ndataset_dir: data\ndataset: one,  two\n";

  static Config load(const std::string& info, const std::string& more = "") {
    std::filesystem::create_directory("data");
    write("data/dataset_info.json", info);
    write("data/one.json", "[]");
    write("data/two.json", "[]");
    write("job.yaml", std::string(kJob) + more);
    return load_config("job.yaml");
  }
  static std::string refusal(const std::string& info, const std::string& more = "") {
    try {
      load(info, more);
    } catch (const SetupError& error) {
      return error.what();
    }
    return "accepted";
  }
};

TEST_F(DatasetInfo, names_are_its_entries_in_their_order) {
  const Config config = load(R"({"two": {"file_name": "two.json", "formatting": "sharegpt",
      "columns": {"messages": "turns", "system": "system"},
      "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}},
    "one": {"file_name": "one.json", "hf_hub_url": "x/y", "columns": {"prompt": "q", "history": "before"}}})");
  ASSERT_EQ(config.datasets.size(), 2u);
  EXPECT_EQ(config.datasets[0].path, "data/one.json");
  EXPECT_EQ(config.datasets[0].type, DatasetType::instruction);
  EXPECT_EQ(config.datasets[0].columns, (std::map<std::string, std::string>{{"prompt", "q"}, {"history", "before"}}));
  EXPECT_EQ(config.datasets[0].rows_max, 0);
  EXPECT_EQ(config.datasets[1].type, DatasetType::chat_template);
  EXPECT_EQ(config.datasets[1].field_messages, "turns");
  EXPECT_EQ(config.datasets[1].message_properties,
            (std::map<std::string, std::string>{{"role", "role"}, {"content", "content"}}));
  EXPECT_EQ(config.datasets[1].roles.at("user"), std::vector<std::string>{"user"});
  EXPECT_EQ(config.datasets[1].roles.at("tool"), std::vector<std::string>{"observation"});
}

TEST_F(DatasetInfo, without_dataset_dir_it_lies_in_data) {
  load(R"({"one": {"file_name": "one.json"}, "two": {"file_name": "two.json"}})");
  write("job.yaml", "model_name_or_path: model\nlearning_rate: 1e-5\ndataset: one\n");
  EXPECT_EQ(load_config("job.yaml").datasets.at(0).path, "data/one.json");
}

TEST_F(DatasetInfo, what_is_unset_or_only_tells_of_another_place_is_no_matter) {
  const Config config = load(R"({"one": {"file_name": "one.json", "formatting": null, "ranking": false, "subset": null,
      "folder": "", "split": "train", "script_url": "one.py", "ms_hub_url": "x/y", "cloud_file_name": "one",
      "columns": {"prompt": "q", "images": null}},
    "two": {"file_name": "two.json", "formatting": "sharegpt",
      "columns": {"messages": null, "system": "system", "tools": "tools", "videos": null}}})");
  ASSERT_EQ(config.datasets.size(), 2u);
  EXPECT_EQ(config.datasets[0].type, DatasetType::instruction);
  EXPECT_EQ(config.datasets[0].columns, (std::map<std::string, std::string>{{"prompt", "q"}}));
  EXPECT_EQ(config.datasets[1].field_messages, "conversations");
  EXPECT_EQ(config.datasets[1].roles.at("assistant"), std::vector<std::string>{"gpt"});
}

TEST_F(DatasetInfo, names_are_a_list_or_a_text_with_commas_and_none_is_empty) {
  const std::string info = R"({"one": {"file_name": "one.json"}, "two": {"file_name": "two.json"}})";
  load(info);
  const auto with = [](const std::string& names) {
    write("job.yaml", "model_name_or_path: model\nlearning_rate: 1e-5\ndataset_dir: data\ndataset: " + names + "\n");
    return load_config("job.yaml").datasets;
  };
  for (const char* names : {"two , one", "[two, one]"}) {
    const std::vector<DatasetConfig> datasets = with(names);
    ASSERT_EQ(datasets.size(), 2u) << names;
    EXPECT_EQ(datasets[0].path, "data/two.json") << names;
    EXPECT_EQ(datasets[1].path, "data/one.json") << names;
  }
  for (const char* names : {"\"two,,one\"", "[]", "[two, \"\"]", "{two: one}"}) try {
      with(names);
      FAIL() << names;
    } catch (const SetupError& error) {
      EXPECT_EQ(error.error().message.find("job.yaml:4:10: dataset must be a name or a list of names, not "), 0u)
          << error.what();
      EXPECT_EQ(error.error().hint, "for example: dataset: identity,alpaca_en_demo");
    }
}

TEST_F(DatasetInfo, max_samples_cuts_each_dataset_and_never_lengthens_one) {
  const Config config =
      load(R"({"one": {"file_name": "one.json"}, "two": {"file_name": "two.json", "num_samples": 10}})",
           "max_samples: 100\n");
  EXPECT_EQ(config.datasets[0].rows_max, 100);
  EXPECT_EQ(config.datasets[1].rows_max, 10);
}

TEST_F(DatasetInfo, what_is_wrong_is_named) {
  const std::string two = R"("two": {"file_name": "two.json"})";
  EXPECT_EQ(refusal(R"({"ones": {"file_name": "one.json"}, )" + two + "}"),
            "job.yaml:4:1: dataset: data/dataset_info.json describes no 'one'\n  fix: did you mean 'ones'?");
  EXPECT_EQ(
      refusal(R"({"one": {"hf_hub_url": "x/y"}, )" + two + "}"),
      "data/dataset_info.json: one: hf_hub_url: nothing is fetched\n  fix: fetch it first, and name it by file_name");
  EXPECT_EQ(refusal(R"({"one": {"file_name": "gone.json"}, )" + two + "}"),
            "data/dataset_info.json: one: names data/gone.json, which is not there\n  fix: put the file there, or set "
            "file_name right");
  EXPECT_EQ(refusal(R"({"one": {"file_name": "one.json", "ranking": true}, )" + two + "}"),
            "data/dataset_info.json: one: 'ranking' is not supported\n  fix: supervised fine-tuning on text is what "
            "there is: remove it");
  EXPECT_EQ(refusal(R"({"one": {"file_name": "one.json", "columns": {"images": "images"}}, )" + two + "}"),
            "data/dataset_info.json: one: the column 'images' is not supported\n  fix: prompt, query, response, system "
            "and history are");
  EXPECT_EQ(refusal(R"({"one": {"file_name": "one.json", "formatting": "xml"}, )" + two + "}"),
            "data/dataset_info.json: one: formatting is 'xml'\n  fix: there are alpaca and sharegpt");
  const auto beside_two = [&](const std::string& one) { return refusal(R"({"one": {)" + one + "}, " + two + "}"); };
  EXPECT_EQ(
      beside_two(""),
      "data/dataset_info.json: one: its data is not a local file (it has no file_name)\n  fix: fetch it first, for "
      "example: hf download --repo-type dataset NAME --local-dir FOLDER; then name it by file_name");
  for (const char* number : {"0", "1.5", "\"all\""})
    EXPECT_EQ(beside_two(R"("file_name": "one.json", "num_samples": )" + std::string(number)),
              "data/dataset_info.json: one: num_samples must be a whole number from 1\n  fix: remove it to take all "
              "rows");
  for (const char* column : {"system", "tools"})
    EXPECT_EQ(beside_two(R"("file_name": "one.json", "formatting": "sharegpt", "columns": {")" + std::string(column) +
                         R"(": "rules"})"),
              "data/dataset_info.json: one: the column '" + std::string(column) +
                  "': '\"rules\"' is not supported\n  fix: messages may have any name; system and tools are called so");
  for (const char* key : {"\"split\": \"test\"", "\"subset\": \"en\"", "\"folder\": \"x\"", "\"audio\": null"}) {
    const std::string name = std::string(key).substr(1, std::string(key).find('"', 1) - 1);
    EXPECT_EQ(beside_two(R"("file_name": "one.json", )" + std::string(key)),
              "data/dataset_info.json: one: '" + name +
                  "' is not supported\n  fix: supervised fine-tuning on text is what there is: remove it");
  }
  for (const char* source : {"script_url", "cloud_file_name"})
    EXPECT_EQ(beside_two('"' + std::string(source) + R"(": "x")"),
              "data/dataset_info.json: one: " + std::string(source) +
                  ": nothing is fetched\n  fix: fetch it first, and name it by file_name");
  EXPECT_EQ(refusal(R"({"one": 3, )" + two + "}"),
            "data/dataset_info.json: one: is no JSON object\n  fix: it has file_name, and what is unusual of its rows");
  EXPECT_EQ(refusal(R"({"identity": {"file_name": "one.json"}, )" + two + "}"),
            "job.yaml:4:1: dataset: data/dataset_info.json describes no 'one'\n  fix: add a description of it there");
  EXPECT_EQ(refusal("{\"one\": " + std::string(5000, '[') + std::string(5000, ']') + "}"),
            "data/dataset_info.json is no JSON object\n  fix: it holds a description for each name");
  EXPECT_EQ(beside_two(R"("file_name": 1)"),
            "data/dataset_info.json: one: file_name must be text\n  fix: write it in quotes");
  EXPECT_EQ(beside_two(R"("file_name": "one.json", "columns": [])"),
            "data/dataset_info.json: one: columns must be an object\n  fix: {\"name\": \"field\"}");
  EXPECT_EQ(refusal("[]"), "data/dataset_info.json is no JSON object\n  fix: it holds a description for each name");
  EXPECT_EQ(refusal("{" + two + "}", "datasets: [{path: data/one.json, type: alpaca}]\n"),
            "job.yaml:4:1: datasets and dataset exclude one another\n  fix: keep `datasets`");
}

TEST_F(DatasetInfo, that_is_not_there_is_named_with_the_key) {
  write("job.yaml", kJob);
  try {
    load_config("job.yaml");
    FAIL();
  } catch (const SetupError& error) {
    EXPECT_EQ(error.error().message,
              "job.yaml:4:1: dataset is looked up in data/dataset_info.json, which is not there");
  }
}

}  // namespace
}  // namespace sluice::train
