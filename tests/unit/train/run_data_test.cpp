// A job's prepared rows as its steps see them, and rows that its model cannot hold. The text side is a stand-in that
// names token files of the test's own.
#include "runtime/train/run_data.h"

#include <cstdlib>

#include "tests/unit/train/job_folder.h"
#include "tests/unit/train/token_file.h"

namespace sluice::train {
namespace {

constexpr int64_t kVocabulary = 1000, kPositions = 64;

class RunDataTest : public JobFolder {
 protected:
  void SetUp() override {
    JobFolder::SetUp();
    std::filesystem::create_directory("text");
    ::setenv("SLUICE_TEXT_DIR", (folder_ / "text").c_str(), 1);
    ::setenv("SLUICE_PYTHON", "python3", 1);
    // Rows of 3 to 6 tokens.
    write_bytes("train.tokens", token_file_bytes({{counting_document(1, 3, 1)},
                                                  {counting_document(5, 4, 1)},
                                                  {counting_document(9, 5, 1)},
                                                  {counting_document(14, 6, 1)}}));
    write_bytes(
        "validation.tokens",
        token_file_bytes({{counting_document(1, 8, 1)}, {counting_document(5, 3, 1)}, {counting_document(9, 2, 1)}}));
  }
  void TearDown() override {
    ::unsetenv("SLUICE_TEXT_DIR");
    ::unsetenv("SLUICE_PYTHON");
    JobFolder::TearDown();
  }

  // `validation`: as Python.
  static std::unique_ptr<RunData> open(Config& config, const std::string& validation) {
    write("text/preprocess.py",
          "import json\nanswer = {'train': 'train.tokens', 'validation': " + validation +
              ", 'hash': 'ab', 'cached': False}\nfor kind in ('', 'validation_'):\n"
              "    for what in ('rows', 'documents', 'tokens', 'supervised_tokens', 'longest_row'):\n"
              "        answer[kind + what] = 1\n"
              "print(json.dumps(answer | {'dropped_too_long': 0, 'dropped_unsupervised': 0}))\n");
    return open_datasets(config, kVocabulary, kPositions);
  }
  static std::string refusal(int64_t vocabulary, int64_t positions_max) {
    Config config = load(minimal());
    open(config, "None");
    try {
      open_datasets(config, vocabulary, positions_max);
    } catch (const SetupError& error) {
      return error.what();
    }
    return "accepted";
  }
};

TEST_F(RunDataTest, WithoutValidationThereIsNoneOfIt) {
  Config config = load(minimal());
  const std::unique_ptr<RunData> data = open(config, "None");
  EXPECT_EQ(data->steps_total(), 4);
  EXPECT_FALSE(data->validates());
  EXPECT_EQ(data->validation_batches(1), 0);
  EXPECT_EQ(data->longest_document(), 6);
  EXPECT_EQ(data->tokens_max(1), 6);
  EXPECT_EQ(config.eval_steps, 0);
}

TEST_F(RunDataTest, RowsOfValidationCountAmongTheLongest) {
  Config config = load(minimal("val_set_size: 3\nevals_per_epoch: 2\nsaves_per_epoch: 4\n"));
  const std::unique_ptr<RunData> data = open(config, "'validation.tokens'");
  EXPECT_TRUE(data->validates());
  EXPECT_EQ(data->steps_total(), 4);
  EXPECT_EQ(data->longest_document(), 8);
  EXPECT_EQ(data->tokens_max(1), 8);
  EXPECT_EQ(data->validation_batches(1), 3);
  EXPECT_EQ(data->validation_batches(2), 2);
  EXPECT_EQ(data->validation(0, 2).micro_batches.size(), 2u);
  EXPECT_EQ(data->validation(1, 2).micro_batches.size(), 1u);
  EXPECT_EQ(config.eval_steps, 2);
  EXPECT_EQ(config.save_steps, 1);
}

TEST_F(RunDataTest, RowsThatTheModelCannotHoldAreRefused) {
  EXPECT_EQ(refusal(1000, 6), "accepted");
  EXPECT_EQ(
      refusal(1000, 5),
      "train.tokens: the longest document has 6 tokens and the model's max_position_embeddings is 5\n  fix: lower "
      "sequence_len");
  EXPECT_EQ(refusal(999, 6),
            "the tokenizer has 1000 tokens and the model's embedding 999\n  fix: use the tokenizer that belongs to "
            "base_model");
}

}  // namespace
}  // namespace sluice::train
