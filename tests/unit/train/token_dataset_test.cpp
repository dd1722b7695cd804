// Token files: what a micro-batch holds, and what a damaged file gets.
#include <gtest/gtest.h>

#include <array>

#include "runtime/core/result.h"
#include "runtime/train/data.h"
#include "tests/unit/train/job_folder.h"
#include "tests/unit/train/token_file.h"

namespace sluice::train {
namespace {

using Numbers = std::vector<int32_t>;

class TokenDatasetTest : public JobFolder {
 protected:
  static const TokenDataset open(const std::string& bytes) {
    write_bytes("train.tokens", bytes);
    return TokenDataset("train.tokens");
  }
  static std::string refusal_of(const std::string& bytes) {
    write_bytes("train.tokens", bytes);
    try {
      const TokenDataset dataset("train.tokens");
    } catch (const SetupError& error) {
      return error.error().message;
    }
    return "accepted";
  }
};

// Rows: [5 tokens, 2 masked | 3 tokens, 1 masked], [4 tokens, all trained on], [1 token].
std::vector<TestRow> some_rows() {
  return {{counting_document(10, 5, 2), counting_document(20, 3, 1)},
          {counting_document(30, 4, 0)},
          {counting_document(40, 1, 0)}};
}

TEST_F(TokenDatasetTest, the_header_is_read) {
  const TokenDataset dataset = open(token_file_bytes(some_rows()));
  EXPECT_EQ(dataset.rows(), 3);
  EXPECT_EQ(dataset.documents(), 4);
  EXPECT_EQ(dataset.tokens(), 13);
  EXPECT_EQ(dataset.vocabulary(), 1000);
  EXPECT_EQ(dataset.supervised_tokens(), 3 + 2 + 4 + 1);
  EXPECT_EQ(dataset.longest_row(), 8);
  EXPECT_EQ(dataset.longest_document(), 5);
  EXPECT_EQ(dataset.row_tokens(1), 4);
  EXPECT_EQ(dataset.content_hash(), std::string(64, 'a'));
}

TEST_F(TokenDatasetTest, rows_are_laid_end_to_end_with_labels_shifted_inside_each_document) {
  const TokenDataset dataset = open(token_file_bytes(some_rows()));
  const std::array<int64_t, 2> rows = {1, 0};
  const MicroBatchData batch = dataset.read(rows);
  EXPECT_EQ(batch.token_ids, (Numbers{30, 31, 32, 33, 10, 11, 12, 13, 14, 20, 21, 22}));
  EXPECT_EQ(batch.labels, (Numbers{31, 32, 33, -100, -100, 12, 13, 14, -100, 21, 22, -100}));
  EXPECT_EQ(batch.positions, (Numbers{0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2}));
  EXPECT_EQ(batch.document_starts, (Numbers{0, 4, 9, 12}));
  EXPECT_EQ(batch.supervised, 3 + 3 + 2);
}

TEST_F(TokenDatasetTest, a_document_of_one_token_predicts_nothing) {
  const TokenDataset dataset = open(token_file_bytes(some_rows()));
  const std::array<int64_t, 1> rows = {2};
  const MicroBatchData batch = dataset.read(rows);
  EXPECT_EQ(batch.labels, Numbers{-100});
  EXPECT_EQ(batch.supervised, 0);
}

TEST_F(TokenDatasetTest, tokens_max_is_the_sum_of_the_longest_rows) {
  const TokenDataset dataset = open(token_file_bytes(some_rows()));
  EXPECT_EQ(dataset.tokens_max(1), 8);
  EXPECT_EQ(dataset.tokens_max(2), 12);
  EXPECT_EQ(dataset.tokens_max(3), 13);
  EXPECT_EQ(dataset.tokens_max(50), 13);
}

TEST_F(TokenDatasetTest, a_file_that_is_not_there_or_empty) {
  try {
    const TokenDataset dataset("gone.tokens");
    FAIL();
  } catch (const SetupError& error) {
    EXPECT_EQ(error.error().message, "gone.tokens: cannot be opened: No such file or directory");
  }
  EXPECT_EQ(refusal_of(""), "train.tokens: is empty, not a token file");
}

TEST_F(TokenDatasetTest, every_truncation_is_noticed) {
  const std::string whole = token_file_bytes(some_rows());
  ASSERT_EQ(refusal_of(whole), "accepted");
  for (size_t length = 1; length < whole.size(); ++length)
    EXPECT_NE(refusal_of(whole.substr(0, length)), "accepted") << length << " of " << whole.size() << " bytes";
  EXPECT_EQ(refusal_of(whole.substr(0, 200)),
            "train.tokens: offset 200: the file ends here, but its header announces " + std::to_string(whole.size()) +
                " bytes");
  EXPECT_EQ(refusal_of(whole + "x"), "train.tokens: offset " + std::to_string(whole.size() + 1) +
                                         ": the file ends here, but its header announces " +
                                         std::to_string(whole.size()) + " bytes");
}

TEST_F(TokenDatasetTest, a_damaged_header_is_named_with_its_offset) {
  const std::string whole = token_file_bytes(some_rows());
  EXPECT_EQ(refusal_of(patched(whole, 0, 'X')),
            "train.tokens: offset 0: is not a token file: it does not begin with SLUICETK");
  EXPECT_EQ(refusal_of(patched(whole, 8, uint32_t{2})),
            "train.tokens: offset 8: version 2, this program reads version 1");
  EXPECT_EQ(refusal_of(patched(whole, 12, uint32_t{4})), "train.tokens: offset 12: flags 4 are not known");
  EXPECT_EQ(refusal_of(patched(whole, 16, uint64_t{0})), "train.tokens: offset 16: row count 0");
  EXPECT_EQ(refusal_of(patched(whole, 24, ~uint64_t{0})), "train.tokens: offset 24: token count 18446744073709551615");
  EXPECT_EQ(refusal_of(patched(whole, 32, ~uint64_t{0})),
            "train.tokens: offset 32: document count 18446744073709551615");
  EXPECT_EQ(refusal_of(patched(whole, 40, uint64_t{1} << 31)), "train.tokens: offset 40: vocabulary size 2147483648");
  EXPECT_EQ(refusal_of(patched(whole, 40, uint64_t{0})), "train.tokens: offset 40: vocabulary size 0");
  EXPECT_EQ(refusal_of(patched(whole, 48, uint64_t{14})),
            "train.tokens: offset 48: supervised token count 14 of 13 tokens");
  EXPECT_EQ(refusal_of(patched(whole, 127, '\xff')), "train.tokens: offset 64: the content hash is not 64 hex digits");
  EXPECT_EQ(refusal_of(patched(whole, 56, uint64_t{9})),
            "train.tokens: offset 56: the longest row has 8 tokens, the header says 9");
  EXPECT_EQ(refusal_of(patched(whole, whole.size() - 8, 'X')),
            "train.tokens: offset " + std::to_string(whole.size() - 8) +
                ": the end mark is missing: the file was not finished");
}

TEST_F(TokenDatasetTest, tables_that_contradict_one_another_are_named_with_their_offset) {
  const std::string whole = token_file_bytes(some_rows());
  const size_t rows = 128, documents = rows + 8 * 4;
  EXPECT_EQ(refusal_of(patched(whole, rows, uint64_t{1})), "train.tokens: offset 128: the first row starts at 1");
  EXPECT_EQ(refusal_of(patched(whole, rows + 16, uint64_t{8})),
            "train.tokens: offset 144: row 1 begins at token 8 and ends at 8");
  EXPECT_EQ(refusal_of(patched(whole, rows + 16, uint64_t{99})),
            "train.tokens: offset 144: row 1 begins at token 8 and ends at 99");
  EXPECT_EQ(refusal_of(patched(whole, documents + 16, uint64_t{7})),
            "train.tokens: offset 136: row 1 begins inside a document");
  EXPECT_EQ(refusal_of(patched(patched(whole, rows + 24, uint64_t{12}), 0, 'S')),
            "train.tokens: offset 152: row 2 begins at token 12 and ends at 12");
}

TEST_F(TokenDatasetTest, tokens_behind_the_last_row_or_document_are_named) {
  const std::string whole = token_file_bytes({{counting_document(10, 5, 2)}, {counting_document(20, 3, 0)}});
  const size_t rows = 128, documents = rows + 8 * 3;
  EXPECT_EQ(refusal_of(patched(whole, rows + 16, uint64_t{7})),
            "train.tokens: offset 144: the last row ends at token 7 of 8");
  EXPECT_EQ(refusal_of(patched(whole, documents + 16, uint64_t{7})),
            "train.tokens: offset 168: the last document ends at token 7 of 8");
}

TEST_F(TokenDatasetTest, a_folder_in_its_place_is_refused) {
  std::filesystem::create_directories("train.tokens/within");
  try {
    const TokenDataset dataset("train.tokens");
    FAIL();
  } catch (const SetupError& error) {
    EXPECT_EQ(error.error().message.find("train.tokens: "), 0u) << error.what();
    EXPECT_FALSE(error.error().hint.empty());
  }
}

TEST_F(TokenDatasetTest, an_id_outside_the_vocabulary_stops_the_step_that_reads_it) {
  const TokenDataset dataset = open(token_file_bytes(some_rows(), 40));
  const std::array<int64_t, 1> first = {0}, last = {2};
  EXPECT_EQ(dataset.read(first).supervised, 5);
  try {
    dataset.read(last);
    FAIL() << "id 40 was accepted";
  } catch (const RunError& error) {
    const int64_t ids = 128 + 8 * 4 + 8 * 5;
    EXPECT_EQ(error.error().message,
              "train.tokens: offset " + std::to_string(ids + 4 * 12) + ": token 40 is outside the vocabulary of 40");
  }
}

TEST_F(TokenDatasetTest, a_label_outside_the_vocabulary_stops_the_step_that_reads_it) {
  const std::array<int64_t, 1> first = {0};
  for (const int32_t label : {-7, 1000}) {
    std::vector<TestRow> rows = {{counting_document(1, 3, 0)}};
    rows[0][0].labels[1] = label;
    const TokenDataset dataset = open(token_file_bytes(rows));
    try {
      dataset.read(first);
      FAIL() << label;
    } catch (const RunError& error) {
      EXPECT_EQ(error.error().message,
                "train.tokens: offset 176: label " + std::to_string(label) + " is outside the vocabulary of 1000");
    }
  }
  std::vector<TestRow> rows = {{counting_document(1, 3, 0)}};
  rows[0][0].ids[2] = -1;
  const TokenDataset dataset = open(token_file_bytes(rows));
  try {
    dataset.read(first);
    FAIL() << "id -1 was accepted";
  } catch (const RunError& error) {
    EXPECT_EQ(error.error().message, "train.tokens: offset 168: token -1 is outside the vocabulary of 1000");
  }
}

}  // namespace
}  // namespace sluice::train
