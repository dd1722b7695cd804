// A folder of its own with a model folder and a dataset in it, as working directory: messages then begin "job.yaml:".
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/core/result.h"
#include "runtime/train/config.h"

namespace sluice::train {

class JobFolder : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "sluice-job-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    std::filesystem::current_path(folder_);
    std::filesystem::create_directory("model");
    write("data.jsonl", "{}\n");
  }
  void TearDown() override {
    std::filesystem::current_path("/");
    std::filesystem::remove_all(folder_);
  }

  static void write(const std::filesystem::path& file, const std::string& text) { std::ofstream(file) << text; }

  // The least that a job has, in four lines; `more` begins in line 5.
  static std::string minimal(const std::string& more = "") {
    return "base_model: model\n"
           "datasets:\n"
           "  - {path: data.jsonl, type: alpaca}\n"
           "learning_rate: 2e-5\n" +
           more;
  }

  static Config load(const std::string& text, const std::vector<std::string>& overrides = {}) {
    write("job.yaml", text);
    return load_config("job.yaml", overrides);
  }

  // The message and the fix of a job that is refused, as one text.
  static std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
    try {
      load(text, overrides);
    } catch (const SetupError& error) {
      return error.what();
    }
    return "accepted";
  }

  std::filesystem::path folder_;
};

}  // namespace sluice::train
